package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.torch.DType;
import java.io.Serializable;

/**
 * The claim that the copied master weights, cast to the module's type, are the module's weights bit
 * for bit.
 *
 * @param parameter whose weights
 * @param start the first element of the parameter
 * @param master the type of the copied elements
 * @param module the type of the module's elements
 * @param weights where the module's weight of element {@code start} lies in the source
 */
public record CastCheck(String parameter, long start, DType master, DType module, Address weights)
    implements Serializable {}

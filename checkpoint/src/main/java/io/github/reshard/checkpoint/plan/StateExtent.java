package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import java.io.Serializable;

/**
 * Where in the source one state of a run of elements lies.
 *
 * @param state {@link States#MASTER}, {@link States#MODULE} or a key of the optimizer's state such
 *     as {@code exp_avg}
 * @param dtype the type of an element
 * @param file index into {@link ReshardPlan#sources()}
 * @param entry index into that file's {@link SourceFile#entries()}
 * @param offset the first byte, counted from the beginning of the file
 */
public record StateExtent(String state, DType dtype, int file, int entry, long offset)
    implements Serializable {}

package io.github.reshard.checkpoint.state;

import java.io.Serializable;

/**
 * A run of elements of one parameter in one partition. All numbers are elements.
 *
 * @param parameter index of the parameter in its layout
 * @param parameterStart the first element that it holds of the rank's {@link LocalTensor}, which is
 *     the parameter unless tensor parallelism cut it
 * @param rank the data-parallel rank that holds it
 * @param bucket which of the rank's partitions: the param group in ZeRO-1 and 2, the sub-group in
 *     ZeRO-3
 * @param bucketStart where in that partition it begins
 * @param elements its length, at least 1
 */
public record Extent(
    int parameter, long parameterStart, int rank, int bucket, long bucketStart, long elements)
    implements Serializable {}

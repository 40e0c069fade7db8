package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ParameterTensor.Piece;
import io.github.reshard.checkpoint.torch.DType;
import java.io.Serializable;
import java.util.List;

/**
 * A run of elements that is compared in one go.
 *
 * @param problem what makes comparing impossible, or empty
 */
record RunPair(
    TensorId tensor,
    String problem,
    DType dtype,
    long start,
    long elements,
    List<Piece> a,
    List<Piece> b)
    implements Serializable {}

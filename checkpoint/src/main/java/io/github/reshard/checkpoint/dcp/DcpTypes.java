package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ParameterState;
import io.github.reshard.checkpoint.torch.DType;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The types of states in a distributed checkpoint, where those of the template may be wider: a
 * model that FSDP2 trains in bfloat16 altogether has no float32 masters, and each of its numbers is
 * a float32.
 *
 * @param states for each param group the states and the types that they are read as
 * @param casts what is written as a wider type
 */
record DcpTypes(List<Map<String, DType>> states, Map<ParameterState, DType> casts) {
  /**
   * Those of the parameters of a model of the template.
   *
   * @throws RefusedException if parameters of one group have states of several types
   */
  static DcpTypes of(PartitionedModel template, DcpKeys keys) {
    List<Map<String, DType>> read = new ArrayList<>();
    template.states().forEach(states -> read.add(new LinkedHashMap<>(states)));
    Map<Integer, Map<String, String>> first = new HashMap<>();
    Map<ParameterState, DType> casts = new HashMap<>();
    for (int p = 0; p < template.parameters().size(); p++) {
      int group = template.parameters().get(p).group();
      for (Map.Entry<String, DType> state : template.statesOf(p).entrySet()) {
        String key = keys.weightOrState(template.parameters().get(p).name(), state.getKey());
        DType type = keys.requireTensor(key).dtype();
        String other =
            first.computeIfAbsent(group, g -> new HashMap<>()).putIfAbsent(state.getKey(), key);
        DType before = read.get(group).put(state.getKey(), type);
        if (other != null && before != type) {
          throw new RefusedException(
              keys.where(),
              "'%s' is %s, and '%s', which is in the same param group, %s. Parameters of one group are read in one type."
                  .formatted(other, before.torchName(), key, type.torchName()));
        }
        if (type != state.getValue()) {
          casts.put(new ParameterState(p, state.getKey()), state.getValue());
        }
      }
    }
    return new DcpTypes(read, casts);
  }

  /**
   * @param mayBeWider whether the template's type may be a wider one
   * @throws RefusedException if the tensor {@code key} is of another shape, or its numbers are none
   *     of {@code dtype}
   */
  static void requireAlike(
      DcpKeys keys, String key, DType dtype, List<Long> shape, boolean mayBeWider) {
    DcpMetadata.Tensor tensor = keys.requireTensor(key);
    boolean fits = tensor.dtype() == dtype || (mayBeWider && isWiderThan(dtype, tensor.dtype()));
    if (!tensor.shape().equals(shape) || !fits) {
      throw new RefusedException(
          keys.where(),
          "'%s' is %s of shape %s, the template has %s of shape %s for it. %s"
              .formatted(
                  key,
                  tensor.dtype().torchName(),
                  tensor.shape(),
                  dtype.torchName(),
                  shape,
                  tensor.shape().equals(shape)
                      ? "Only states of the same type are taken over: DeepSpeed's masters are"
                          + " float32."
                      : "They are of different models."));
    }
  }

  /**
   * @throws RefusedException if the tensor {@code key} is of another shape
   */
  static void requireShape(DcpKeys keys, String key, List<Long> shape) {
    List<Long> found = keys.requireTensor(key).shape();
    if (!found.equals(shape)) {
      throw new RefusedException(
          keys.where(),
          "'%s' is of shape %s, and the checkpoint of DeepSpeed has it of shape %s. They are of different models."
              .formatted(key, found, shape));
    }
  }

  /** What the user should know of what becomes wider. */
  static List<String> notes(List<PartitionedModel> models) {
    int wider = models.stream().mapToInt(model -> model.casts().size()).sum();
    return wider == 0
        ? List.of()
        : List.of(
            "%d weights and states are of 16 bits in the distributed checkpoint, and here float32 of the same numbers: it has no masters"
                .formatted(wider));
  }

  /** Whether every number of the one type is one of the other. */
  private static boolean isWiderThan(DType wide, DType narrow) {
    return wide == DType.FLOAT32 && (narrow == DType.BFLOAT16 || narrow == DType.FLOAT16);
  }
}

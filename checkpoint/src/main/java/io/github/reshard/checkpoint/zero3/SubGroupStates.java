package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.ReplicaComparison;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * Whether all sub-groups of a param group say the same beside their partitions. When boundaries
 * move, a sub-group takes that from another one of its param group.
 */
final class SubGroupStates {
  private SubGroupStates() {}

  /**
   * @param part of ZeRO-3
   * @param targetWorldSize at which boundaries move, for messages
   * @throws io.github.reshard.checkpoint.RefusedException if they differ
   */
  static void requireAgree(TrainingState state, ModelPart part, int targetWorldSize)
      throws IOException {
    SavedSharded saved = (SavedSharded) part.origin().orElseThrow();
    ReadFile file = part.optimizers().get(0);
    ShardedStates states = new ShardedStates(file.root());
    ShardedLayout layout = saved.layout();
    for (int b = 1; b < layout.buckets(); b++) {
      if (layout.groupOf(b) != layout.groupOf(b - 1)) {
        continue;
      }
      Optional<PickledValue> before = states.state(b - 1);
      Optional<PickledValue> here = states.state(b);
      if (before.isEmpty() || here.isEmpty()) {
        if (before.isPresent() != here.isPresent()) {
          throw states
              .state()
              .refused(
                  "only one of the sub-groups %d and %d of a param group has state."
                      .formatted(b - 1, b));
        }
        continue;
      }
      Map<String, PickledValue> partitions = states.partitions(layout, b);
      Set<PyObject> cut = Collections.newSetFromMap(new IdentityHashMap<>());
      partitions.values().forEach(partition -> cut.add(partition.node()));
      Optional<String> difference =
          PyEquality.firstDifference(
              before.get().node(),
              here.get().node(),
              (a, other) -> cut.contains(other) || sameTensors(state, file, a, other));
      if (difference.isPresent()) {
        throw here.get()
            .refused(
                "differs from that of sub-group %d of the same param group (%s), and at %d ranks the boundaries between them move."
                    .formatted(b - 1, difference.get(), targetWorldSize));
      }
    }
  }

  private static boolean sameTensors(TrainingState state, ReadFile file, PyObject a, PyObject b) {
    Optional<TensorNode> first = TensorNode.of(a);
    Optional<TensorNode> second = TensorNode.of(b);
    try {
      return first.isPresent()
          && second.isPresent()
          && ReplicaComparison.sameBytes(state, file, first.get(), second.get());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}

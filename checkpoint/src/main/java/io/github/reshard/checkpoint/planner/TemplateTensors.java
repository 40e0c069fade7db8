package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.zero12.OptimizerStates;
import io.github.reshard.checkpoint.zero3.ShardedStates;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** The tensors of a template's file that its reshard carries over instead of partitioning them. */
final class TemplateTensors {
  private static final String STEP = "step";

  private TemplateTensors() {}

  /**
   * A tensor whose elements are to come from elsewhere.
   *
   * @param name what the module calls it, or null for a step
   * @param group whose step it is
   * @param where it is, for messages
   * @param dtype the type of an element
   * @param shape elements per dimension
   * @param address where the template has it
   */
  record Located(
      String name, int group, String where, DType dtype, List<Long> shape, Address address) {
    long bytes() {
      long elements = 1;
      for (long size : shape) {
        elements = Math.multiplyExact(elements, size);
      }
      return elements * dtype.bytes();
    }
  }

  /**
   * Those of a file.
   *
   * @param source the index of the file in {@code plan}
   * @throws RefusedException if one is not contiguous, or a step is no float32
   */
  static List<Located> of(ReshardPlan plan, int source, TorchFile file) {
    PickledValue root = PickledValue.root(file.path(), file.parse().root());
    return TemplateValues.isModelFile(root)
        ? ofModule(plan, source, file, root)
        : steps(plan, source, file, root);
  }

  private static List<Located> ofModule(
      ReshardPlan plan, int source, TorchFile file, PickledValue root) {
    List<Located> found = new ArrayList<>();
    Map<Address, String> seen = new HashMap<>();
    new ModelStates(root)
        .module()
        .forEach(
            (name, tensor) -> {
              String where = file.path() + ", module." + name;
              if (tensor.numel() == 0) {
                return;
              }
              if (!tensor.isContiguous()) {
                throw new RefusedException(
                    where,
                    "is not contiguous, so its elements cannot be replaced. Save the template after .contiguous().");
              }
              Located located = located(plan, source, file, name, 0, where, tensor);
              if (seen.putIfAbsent(located.address(), name) == null) {
                found.add(located);
              }
            });
    return found;
  }

  private static List<Located> steps(
      ReshardPlan plan, int source, TorchFile file, PickledValue root) {
    ShardedStates sharded = new ShardedStates(root);
    boolean isSharded = sharded.stateDict().find(OptimizerFile.FLAT_GROUPS).isPresent();
    OptimizerStates flat = new OptimizerStates(root);
    List<Located> found = new ArrayList<>();
    int groups = isSharded ? sharded.paramGroups().items().size() : flat.groups();
    for (int g = 0; g < groups; g++) {
      List<PickledValue> states = new ArrayList<>();
      if (isSharded) {
        sharded.subGroups().get(g).forEach(b -> sharded.state(b).ifPresent(states::add));
      } else {
        flat.stateNode(g)
            .ifPresent(node -> states.add(new PickledValue(file.path(), "state", node)));
      }
      for (PickledValue state : states) {
        Optional<PickledValue> step = state.find(STEP);
        if (step.isEmpty() || step.get().asTensor().isEmpty()) {
          continue;
        }
        TensorNode tensor = step.get().tensor();
        if (tensor.dtype() != DType.FLOAT32 || tensor.numel() != 1) {
          throw step.get()
              .refused(
                  "expected a step of one float32, found %d of %s."
                      .formatted(tensor.numel(), tensor.dtype().torchName()));
        }
        found.add(located(plan, source, file, null, g, step.get().where(), tensor));
      }
    }
    return found;
  }

  private static Located located(
      ReshardPlan plan,
      int source,
      TorchFile file,
      String name,
      int group,
      String where,
      TensorNode tensor) {
    tensor.requireInBounds(where);
    List<Long> shape = new ArrayList<>();
    for (long size : tensor.shape()) {
      shape.add(size);
    }
    TorchFile.Entry entry =
        file.storage(tensor.storageKey())
            .orElseThrow(() -> new RefusedException(where, "has no storage. It is damaged."));
    SourceFile planned = plan.sources().get(source);
    for (int e = 0; e < planned.entries().size(); e++) {
      if (planned.entries().get(e).payloadOffset() == entry.payloadOffset()) {
        return new Located(
            name,
            group,
            where,
            tensor.dtype(),
            shape,
            new Address(
                source,
                e,
                entry.payloadOffset() + tensor.storageOffset() * (long) tensor.dtype().bytes()));
      }
    }
    throw new IllegalStateException(entry.name() + " is not in the plan");
  }
}

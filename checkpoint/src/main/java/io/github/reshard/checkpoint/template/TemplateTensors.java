package io.github.reshard.checkpoint.template;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.Replicated;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** The tensors of a template's file that its reshard carries over instead of partitioning them. */
public final class TemplateTensors {
  private TemplateTensors() {}

  /**
   * A tensor whose elements are to come from elsewhere.
   *
   * @param name what the module calls it, what the optimizer calls a scalar of its state, or the
   *     key of what the user saved
   * @param group whose scalar it is, {@link #OF_MODULE} or {@link #OF_CLIENT}
   * @param where it is, for messages
   * @param dtype the type of an element
   * @param shape elements per dimension
   * @param address where the template has it
   */
  public record Located(
      String name, int group, String where, DType dtype, List<Long> shape, Address address) {
    static final int OF_MODULE = -1;
    static final int OF_CLIENT = -2;

    /** Whether it is one of the module. */
    public boolean isOfModule() {
      return group == OF_MODULE;
    }

    /** Whether it is one that the user saved beside the module. */
    public boolean isOfClient() {
      return group == OF_CLIENT;
    }

    /** Whether the two have bytes in common. */
    public boolean overlaps(Located other) {
      return address.file() == other.address.file()
          && address.offset() < other.address.offset() + other.bytes()
          && other.address.offset() < address.offset() + bytes();
    }

    /** How many bytes its elements have. */
    public long bytes() {
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
   * @param reading how an optimizer file is read
   * @param source the index of the file in {@code plan}
   * @throws RefusedException if one is not contiguous
   */
  public static List<Located> of(
      OptimizerValues.Reading reading, ReshardPlan plan, int source, TorchFile file) {
    PickledValue root = PickledValue.root(file.path(), file.parse().root());
    return TemplateValues.isModelFile(root)
        ? ofModule(plan, source, file, root)
        : scalars(reading, plan, source, file, root);
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
              requireContiguous(tensor, where);
              Located located = located(plan, source, file, name, Located.OF_MODULE, where, tensor);
              if (seen.putIfAbsent(located.address(), name) == null) {
                found.add(located);
              }
            });
    return found;
  }

  private static List<Located> scalars(
      OptimizerValues.Reading reading,
      ReshardPlan plan,
      int source,
      TorchFile file,
      PickledValue root) {
    List<Located> found = new ArrayList<>();
    List<OptimizerValues.Shared> groups = reading.shared(root);
    for (int g = 0; g < groups.size(); g++) {
      for (PickledValue state : groups.get(g).states()) {
        for (PickledValue.Entry entry : state.children()) {
          Optional<TensorNode> tensor = entry.value().asTensor();
          if (tensor.isPresent() && Replicated.isReplicated(tensor.get())) {
            String where = entry.value().where();
            found.add(located(plan, source, file, entry.key(), g, where, tensor.get()));
          }
        }
      }
    }
    return found;
  }

  /**
   * One that the user saved beside the module.
   *
   * @param key what it is called
   * @throws RefusedException if it is not contiguous
   */
  public static Located ofClient(
      ReshardPlan plan, int source, TorchFile file, String key, String where, TensorNode tensor) {
    requireContiguous(tensor, where);
    return located(plan, source, file, key, Located.OF_CLIENT, where, tensor);
  }

  private static void requireContiguous(TensorNode tensor, String where) {
    if (!tensor.isContiguous()) {
      throw new RefusedException(
          where,
          "is not contiguous, so its elements cannot be replaced. Save the template after"
              + " .contiguous().");
    }
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

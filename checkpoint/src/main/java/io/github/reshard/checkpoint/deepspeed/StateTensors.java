package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PathTo;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashSet;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Optional;
import java.util.Set;

/**
 * The tensors in what an optimizer keeps of a param group or sub-group, at whatever depth:
 * bitsandbytes from 0.49 on has its own in {@code state[g]['__bnb_optimizer_quant_state__']}
 * (bitsandbytes/optim/optimizer.py, {@code state_dict}), torchao in tensors that wrap others.
 */
public final class StateTensors {
  private static final int DEEPEST = 64;

  private final List<Named> found = new ArrayList<>();
  private final Set<PyObject> seen = Collections.newSetFromMap(new IdentityHashMap<>());

  private StateTensors() {}

  /**
   * A tensor of the state.
   *
   * @param name its keys from the outermost in, joined by dots
   * @param value the tensor
   */
  public record Named(String name, PickledValue value) {
    public TensorNode tensor() {
      return value.tensor();
    }

    /** Whether it stands in the state's own dict. */
    public boolean isOutermost() {
      return name.indexOf('.') < 0;
    }
  }

  /**
   * All tensors in {@code state}, in its order.
   *
   * @throws RefusedException if one is in an object that is more than a container
   */
  public static List<Named> in(PickledValue state) {
    StateTensors tensors = new StateTensors();
    tensors.addEntries("", state, 0);
    return tensors.found;
  }

  /** The tensor that {@link #in} calls {@code name}. */
  public static Optional<PickledValue> find(PickledValue state, String name) {
    return in(state).stream()
        .filter(named -> named.name().equals(name))
        .map(Named::value)
        .findFirst();
  }

  /** The tensor that {@link #in} calls {@code name}, which must be there. */
  public static PickledValue get(PickledValue state, String name) {
    return find(state, name)
        .orElseThrow(() -> state.refused("expected the tensor '" + name + "', found none."));
  }

  private void addEntries(String path, PickledValue dict, int depth) {
    for (PickledValue.Entry entry : dict.children()) {
      add(path.isEmpty() ? entry.key() : path + "." + entry.key(), entry.value(), depth);
    }
  }

  private void add(String name, PickledValue value, int depth) {
    if (value.asTensor().isPresent()) {
      if (!seen.add(value.node()) && !Replicated.isReplicated(value.tensor())) {
        throw value.refused("is the same tensor as another state. That is not supported.");
      }
      found.add(new Named(name, value));
      requireNothingWithin(value, 1);
    } else if ((value.isDict() || value.isList()) && depth < DEEPEST) {
      if (value.isDict()) {
        addEntries(name, value, depth + 1);
      } else {
        List<PickledValue> items = value.items();
        for (int i = 0; i < items.size(); i++) {
          add(name + "." + i, items.get(i), depth + 1);
        }
      }
    } else if (value.node() instanceof PyInstance || value.isDict() || value.isList()) {
      requireNothingWithin(value, 0);
    }
  }

  /** What wraps tensors, such as torchao's quantised ones, is not one number for each weight. */
  private static void requireNothingWithin(PickledValue value, int own) {
    List<TensorNode> tensors = StorageKeys.tensors(value.file(), value.node());
    if (tensors.size() > own) {
      throw value.refused(
          "is %s that holds %d tensors, such as one of %s%s. State that is not one number for each weight is not supported: load the checkpoint once with an optimizer that keeps its state in plain tensors, and save it again."
              .formatted(
                  value.describe(),
                  tensors.size() - own,
                  tensors.get(own).dtype().torchName(),
                  Arrays.toString(tensors.get(own).shape())));
    }
  }

  /**
   * Whether elements of this type can be state by themselves: numbers of one byte are codes of a
   * quantised state, which mean nothing without the scales of their block.
   */
  public static boolean isNumber(DType dtype) {
    return dtype.bytes() > 1 || dtype == DType.BOOL;
  }

  /**
   * Checks that {@code optimizer} holds no tensor that would be carried as if all ranks shared it.
   *
   * @param optimizer the optimizer's own {@code state_dict()}
   * @param partitions the tensors that are cut
   * @throws RefusedException if another one has more than one element
   */
  public static void requireOthersReplicated(
      PickledValue optimizer, Collection<PickledValue> partitions) {
    // By storage: in an nn.Parameter the tensor that it wraps is met once more.
    Set<String> cut = new HashSet<>();
    partitions.forEach(partition -> cut.add(partition.tensor().storageKey()));
    for (TensorNode tensor : StorageKeys.tensors(optimizer.file(), optimizer.node())) {
      if (!cut.contains(tensor.storageKey()) && !Replicated.isReplicated(tensor)) {
        throw optimizer.refused(
            "%s is a tensor of %s %s that is no partition and no single value. What it is of this rank, and what it would be of others, is not known."
                .formatted(
                    PathTo.node(optimizer, tensor.node()),
                    tensor.dtype().torchName(),
                    Arrays.toString(tensor.shape())));
      }
    }
  }
}

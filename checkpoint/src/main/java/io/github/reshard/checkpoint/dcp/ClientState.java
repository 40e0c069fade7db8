package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.dcp.DcpMetadata.Step;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.TensorChange;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Set;

/**
 * What a model file holds beside DeepSpeed's own (counters, the scheduler, what the user gave to
 * {@code save_checkpoint}), taken apart as PyTorch takes a state dict apart
 * (torch/distributed/checkpoint/_traverse.py): dicts always, lists where they hold dicts or
 * tensors, and nothing else.
 */
final class ClientState {
  private static final Set<String> ONLY_FOR_DEEPSPEED = Set.of("data_sampler", "random_ltd");

  private ClientState() {}

  private static boolean isOfDeepSpeed(String key) {
    return ModelStates.OF_DEEPSPEED.contains(key) || key.equals(TensorChange.INFO);
  }

  /**
   * What is not taken apart.
   *
   * @param path the way to it
   * @param value what stands there
   */
  record Leaf(List<Step> path, PickledValue value) {
    Leaf {
      path = List.copyOf(path);
    }

    /** Under which key a distributed checkpoint has it. */
    String key() {
      return new DcpDialect.Key(path).flat();
    }

    /** The key of the model file that it is under. */
    String first() {
      return ((Step.Key) path.get(0)).name();
    }

    /** The tensor that it is, if it is one. */
    Optional<TensorNode> tensor() {
      return value.asTensor();
    }

    /** Whether it is a tensor or, as a tuple may, holds some. */
    boolean holdsTensors() {
      return !StorageKeys.references(value.node()).isEmpty();
    }
  }

  /** All of a model file. */
  static List<Leaf> of(PickledValue root) {
    List<Leaf> leaves = new ArrayList<>();
    for (PickledValue.Entry entry : root.children()) {
      if (!isOfDeepSpeed(entry.key()) && !ONLY_FOR_DEEPSPEED.contains(entry.key())) {
        add(Step.keys(entry.key()), entry.value(), leaves);
      }
    }
    return leaves;
  }

  /** What of it only DeepSpeed has a use for, by its keys. */
  static List<String> onlyForDeepSpeed(PickledValue root) {
    return root.children().stream()
        .filter(entry -> ONLY_FOR_DEEPSPEED.contains(entry.key()))
        .filter(entry -> entry.value().node() != PyNone.NONE)
        .map(PickledValue.Entry::key)
        .toList();
  }

  private static void add(List<Step> path, PickledValue value, List<Leaf> leaves) {
    if (value.isDict() && value.entries().size() > 0) {
      requireKeys(value);
      for (PickledValue.Entry entry : value.children()) {
        add(further(path, new Step.Key(entry.key())), entry.value(), leaves);
      }
    } else if (isTakenApart(value)) {
      List<PickledValue> items = value.items();
      for (int i = 0; i < items.size(); i++) {
        add(further(path, new Step.Index(i)), items.get(i), leaves);
      }
    } else {
      leaves.add(new Leaf(path, value));
    }
  }

  private static List<Step> further(List<Step> path, Step step) {
    List<Step> further = new ArrayList<>(path);
    further.add(step);
    return further;
  }

  /** Whether it is a list with a dict or a tensor in it, or with a list of that kind. */
  private static boolean isTakenApart(PickledValue value) {
    return value.node() instanceof PyList
        && value.items().stream()
            .anyMatch(item -> item.isDict() || item.asTensor().isPresent() || isTakenApart(item));
  }

  private static void requireKeys(PickledValue dict) {
    dict.entries()
        .forEach(
            entry -> {
              if (!(entry.key() instanceof PyStr) && !(entry.key() instanceof PyInt)) {
                throw dict.refused(
                    "a dict in the client state has a key that is neither a text nor a number, for"
                        + " which a distributed checkpoint has no place.");
              }
            });
  }
}

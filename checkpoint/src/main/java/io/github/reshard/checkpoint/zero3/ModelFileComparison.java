package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;

/**
 * Compares the ZeRO-3 model files of the ranks. What describes the model must be the same; what the
 * user put there may differ.
 */
public final class ModelFileComparison {
  private static final List<String> SHARED =
      List.of(
          ModelStates.PARAM_SHAPES,
          ModelStates.FROZEN_SHAPES,
          "buffer_names",
          ModelStates.DP_WORLD_SIZE,
          "mp_world_size",
          "global_steps",
          "global_samples",
          "skipped_steps",
          "ds_version");
  private static final Set<String> BY_RANK =
      Set.of(ModelStates.SHARED_PARAMS, ModelStates.FROZEN_FRAGMENTS);

  private final Set<String> partitioned;
  private TorchFile firstFile;
  private ModelStates first;
  private Set<String> firstPieces;
  private List<Integer> firstContents;
  private final TreeMap<String, List<Integer>> differing = new TreeMap<>();

  /**
   * @param partitioned the frozen parameters that are cut into pieces
   */
  ModelFileComparison(List<String> partitioned) {
    this.partitioned = Set.copyOf(partitioned);
  }

  /**
   * Compares the file of {@code rank} with the first one that was added.
   *
   * @throws RefusedException if they describe different models or steps
   */
  void add(int rank, TorchFile file) {
    if (first != null && file.hasPickleOf(firstFile)) {
      compareContents(rank, file, firstPieces);
      return;
    }
    ModelStates states = new ModelStates(PickledValue.root(file.path(), file.parse().root()));
    if (first == null) {
      first = states;
      firstFile = file;
      firstPieces = pieces(states);
      firstContents = contents(file, firstPieces);
      return;
    }
    for (String key : SHARED) {
      Optional<String> difference =
          PyEquality.firstDifference(value(first, key), value(states, key));
      if (difference.isPresent()) {
        throw new RefusedException(
            file.path(),
            "%s differs from that in %s (%s). The files are of different steps or runs."
                .formatted(key, firstFile.path(), difference.get()));
      }
    }
    Set<String> keys = new HashSet<>();
    first.root().children().forEach(entry -> keys.add(entry.key()));
    states.root().children().forEach(entry -> keys.add(entry.key()));
    for (String key : keys) {
      if (!SHARED.contains(key)
          && !BY_RANK.contains(key)
          && PyEquality.firstDifference(value(first, key), value(states, key)).isPresent()) {
        differing.computeIfAbsent(key, k -> new ArrayList<>()).add(rank);
      }
    }
    compareContents(rank, file, pieces(states));
  }

  private void compareContents(int rank, TorchFile file, Set<String> pieces) {
    if (!firstContents.equals(contents(file, pieces))) {
      differing
          .computeIfAbsent("tensors that are not partitioned", k -> new ArrayList<>())
          .add(rank);
    }
  }

  private static PyObject value(ModelStates states, String key) {
    return states.root().find(key).map(PickledValue::node).orElse(PyNone.NONE);
  }

  /** The entries of the fragments that are cut. */
  private Set<String> pieces(ModelStates states) {
    Set<String> pieces = new HashSet<>();
    states
        .frozenFragments()
        .forEach(
            (name, fragment) -> {
              if (partitioned.contains(name)) {
                pieces.add("data/" + fragment.tensor().storageKey());
              }
            });
    return pieces;
  }

  /** The checksums of the other storages. */
  private static List<Integer> contents(TorchFile file, Set<String> pieces) {
    return file.entries().stream()
        .filter(e -> e.name().startsWith("data/") && e.bytes() > 0 && !pieces.contains(e.name()))
        .map(e -> Objects.hash(e.name(), e.bytes(), e.crc32()))
        .toList();
  }

  /** What the user should know of the differences. */
  Optional<String> note() {
    if (differing.isEmpty()) {
      return Optional.empty();
    }
    List<String> parts = new ArrayList<>();
    differing.forEach((key, ranks) -> parts.add("%s (ranks %s)".formatted(key, ranks)));
    return Optional.of(
        "some ranks have other values than rank 0: %s; ranks on both sides keep theirs, new ranks get rank 0's"
            .formatted(String.join(", ", parts)));
  }
}

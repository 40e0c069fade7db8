package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.ComposedTorchFile;
import io.github.reshard.checkpoint.format.ComposedTorchFile.Piece;
import io.github.reshard.checkpoint.format.ComposedTorchFile.Storage;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.pickle.GraphCopy;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyPersistentId;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.ComposedStore.Composed;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** What an optimizer file of one rank says, put together of the files of a Universal Checkpoint. */
final class ComposedGraph {
  private static final int PROTOCOL = 2;

  private final SourceStore store;
  private final UniversalTensors.Saved shared;
  private final UniversalTensors tensors;
  private final Map<String, TensorShares.Share> shares;
  private final Map<String, List<Piece>> storages = new HashMap<>();

  /**
   * @param shares what the rank has of parameters, by name; all of those that are not there
   */
  ComposedGraph(
      SourceStore store,
      UniversalTensors.Saved shared,
      UniversalTensors tensors,
      Map<String, TensorShares.Share> shares) {
    this.store = store;
    this.shared = shared;
    this.tensors = tensors;
    this.shares = shares;
  }

  /** A copy of what another file says, whose storages are that file's. */
  PyObject take(UniversalTensors.Saved file, PyObject node) throws IOException {
    return take(file, node, "");
  }

  /**
   * The same.
   *
   * @param owner whose copy it is: those of different owners share no storage, or what one adds to
   *     its step would be added to the other's
   */
  private PyObject take(UniversalTensors.Saved file, PyObject node, String owner)
      throws IOException {
    PyObject copy = GraphCopy.of(node);
    for (PyPersistentId reference : StorageKeys.references(copy)) {
      StorageNode storage = StorageNode.of(reference).orElseThrow();
      String key = file.stat().path() + ":" + storage.key() + ":" + owner;
      if (!storages.containsKey(key)) {
        storages.put(
            key, List.of(storage.bytes() == 0 ? Piece.zeros(0) : file.piece(storage.key())));
      }
      reference.setId(StorageKeys.named(storage, key, storage.elements()).id());
    }
    return copy;
  }

  /**
   * The states of a param group or sub-group, each the parameters end to end.
   *
   * @param parameters in order
   * @param elements of all of them and the padding behind
   * @param ranks as {@link UniversalTensors#state}
   */
  Flat flat(String name, List<Parameter> parameters, long elements, int ranks) throws IOException {
    Map<String, DType> types = new LinkedHashMap<>();
    List<String> states = tensors.statesOf(parameters.get(0).name());
    for (String state : states) {
      List<Piece> pieces = new ArrayList<>();
      long bytes = 0;
      for (Parameter parameter : parameters) {
        if (!tensors.statesOf(parameter.name()).equals(states)) {
          throw shared
              .root()
              .refused(
                  "%s has the states %s, %s of the same param group has %s. The Universal Checkpoint is not whole."
                      .formatted(
                          parameter.name(),
                          tensors.statesOf(parameter.name()),
                          parameters.get(0).name(),
                          states));
        }
        UniversalTensors.State found =
            tensors.state(
                parameter, state, ranks, Optional.ofNullable(shares.get(parameter.name())));
        DType type = types.computeIfAbsent(state, s -> found.dtype());
        if (found.dtype() != type) {
          throw shared
              .root()
              .refused(
                  "%s of %s is of type %s, of %s of type %s."
                      .formatted(
                          state,
                          parameter.name(),
                          found.dtype().torchName(),
                          parameters.get(0).name(),
                          type.torchName()));
        }
        pieces.addAll(found.pieces());
        bytes += found.pieces().stream().mapToLong(Piece::bytes).sum();
      }
      long padding = elements * types.get(state).bytes() - bytes;
      if (padding > 0) {
        pieces.add(Piece.zeros(padding));
      }
      storages.put(name + " " + state, pieces);
    }
    return new Flat(name, types, elements);
  }

  /**
   * Flat states.
   *
   * @param types of all states, the master weights last
   * @param elements of each
   */
  record Flat(String name, Map<String, DType> types, long elements) {
    /**
     * The tensor of a state.
     *
     * @param shown how many of the elements it shows
     */
    PyInstance tensor(String state, long shown) {
      PyInstance made =
          TensorNode.create(
              types.get(state), name + " " + state, state.equals(States.MASTER), elements);
      TensorNode.of(made).orElseThrow().setGeometry(0, shown);
      return made;
    }

    /** All states but the master weights, behind what is not partitioned. */
    PyDict state(PyDict common) {
      types
          .keySet()
          .forEach(
              state -> {
                if (!state.equals(States.MASTER)) {
                  common.entries().add(new PyStr(state), tensor(state, elements));
                }
              });
      return common;
    }
  }

  /**
   * What of the state of a group is not partitioned.
   *
   * @param owner the group or sub-group
   * @param saved the state in {@code optimizer_state.pt}, which has shards if DeepSpeed made it of
   *     ZeRO-3
   * @param parameters of the group, whose steps have to agree
   */
  PyDict common(String owner, Optional<PickledValue> saved, List<Parameter> parameters)
      throws IOException {
    PyDict common = new PyDict();
    if (saved.isPresent()) {
      for (PyEntries.Entry entry : saved.get().entries()) {
        boolean shard = TensorNode.of(entry.value()).filter(t -> t.shape().length > 0).isPresent();
        if (!shard) {
          common.entries().add(entry.key(), take(shared, entry.value(), owner));
        }
      }
    }
    Optional<UniversalTensors.Saved> first = tensors.step(parameters.get(0).name());
    for (Parameter parameter : parameters) {
      Optional<UniversalTensors.Saved> other = tensors.step(parameter.name());
      if (first.isPresent() != other.isPresent()
          || (first.isPresent() && !isSame(first.get(), other.get()))) {
        throw (other.isPresent() ? other.get() : first.get())
            .root()
            .refused(
                "the step of %s is not that of %s, of the same param group. The Universal Checkpoint is of more than one step, or not whole."
                    .formatted(parameter.name(), parameters.get(0).name()));
      }
    }
    if (first.isPresent() && common.get(UniversalFiles.STEP) == null) {
      common
          .entries()
          .add(new PyStr(UniversalFiles.STEP), take(first.get(), first.get().root().node(), owner));
    }
    return common;
  }

  /** The CRC of four bytes tells them apart; they are read, as no other file proves them. */
  private boolean isSame(UniversalTensors.Saved one, UniversalTensors.Saved other)
      throws IOException {
    return one.file().hasPickleOf(other.file()) && step(one) == step(other);
  }

  private int step(UniversalTensors.Saved saved) throws IOException {
    Optional<TensorNode> tensor = saved.root().asTensor();
    if (tensor.isEmpty()) {
      return 0;
    }
    Piece piece = saved.piece(tensor.get().storageKey());
    ComposedTorchFile.part(store, piece, 0, piece.bytes());
    return ComposedTorchFile.crc(store, piece.file(), piece.offset(), piece.bytes());
  }

  /** The file that says {@code root}. */
  Composed file(String path, PyObject root) {
    List<Storage> listed = new ArrayList<>();
    StorageKeys.renumber(path, root)
        .forEach((key, old) -> listed.add(new Storage(key, storages.get(old.key()))));
    return ComposedTorchFile.of(path, root, PROTOCOL, listed);
  }

  /**
   * A model file that is edited.
   *
   * @param pieces what is laid out anew, by state and bucket
   */
  static Composed model(
      SourceStore store,
      UniversalTensors.Saved saved,
      Rewritten content,
      Map<Rewritten.Content.PartitionOf, List<Piece>> pieces)
      throws IOException {
    List<Storage> listed = new ArrayList<>();
    for (Rewritten.Storage storage : content.storages()) {
      List<Piece> of;
      if (storage.bytes() == 0) {
        of = List.of(Piece.zeros(0));
      } else if (storage.content() instanceof Rewritten.Content.Carried carried) {
        of = List.of(saved.piece(carried.sourceKey()));
      } else if (storage.content() instanceof Rewritten.Content.PartitionOf partition) {
        of = pieces.get(partition);
      } else if (storage.content() instanceof Rewritten.Content.Copied copied) {
        Piece whole = saved.piece(copied.sourceKey());
        of = List.of(ComposedTorchFile.part(store, whole, copied.from(), storage.bytes()));
      } else {
        throw new RefusedException(saved.file().path(), "cannot be laid out for one rank.");
      }
      listed.add(new Storage(storage.key(), of));
    }
    return ComposedTorchFile.of(
        saved.stat().path(), content.root(), saved.file().parse().protocol(), listed);
  }
}

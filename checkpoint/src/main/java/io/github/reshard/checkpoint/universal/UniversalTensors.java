package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.format.ComposedTorchFile;
import io.github.reshard.checkpoint.format.ComposedTorchFile.Piece;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.FilesAhead;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;

/** The files {@code zero/NAME/STATE.pt} of a Universal Checkpoint. */
final class UniversalTensors {
  private final SourceStore store;
  private final String where;
  private final Map<String, SortedMap<String, FileStat>> folders = new TreeMap<>();
  private final Map<FileStat, TorchFile> read = new HashMap<>();
  private final Map<FileStat, List<List<Piece>>> ofRanks = new HashMap<>();

  /** Finds them among the files below a tag. */
  UniversalTensors(SourceStore store, CheckpointFiles files) throws IOException {
    this.store = store;
    this.where = files.directory() + "/" + files.tag() + "/" + UniversalFiles.FOLDER;
    String prefix = files.tag() + "/" + UniversalFiles.FOLDER + "/";
    for (CheckpointFiles.Carried file : files.others()) {
      String[] steps =
          file.path().startsWith(prefix)
              ? file.path().substring(prefix.length()).split("/", -1)
              : new String[0];
      String name = steps.length == 2 ? steps[1] : "";
      if (name.endsWith(UniversalFiles.SUFFIX)) {
        folders
            .computeIfAbsent(steps[0], folder -> new TreeMap<>())
            .put(name.substring(0, name.length() - UniversalFiles.SUFFIX.length()), file.stat());
      }
    }
    List<FileStat> all = new ArrayList<>();
    folders.values().forEach(states -> all.addAll(states.values()));
    FilesAhead.forEach(all, store.readsAtOnce(), this::open, read::put);
  }

  private TorchFile open(FileStat stat) throws IOException {
    try (RangedFile file = store.open(stat)) {
      return TorchFile.read(file);
    }
  }

  /**
   * Checks that only parameters of {@code known} are trained here.
   *
   * @throws RefusedException if another one has a state of an optimizer
   */
  void requireOnly(Set<String> known) {
    folders.forEach(
        (name, states) -> {
          if (!known.contains(name) && !states.keySet().equals(Set.of(States.MASTER))) {
            throw new RefusedException(
                where + "/" + name,
                "has the states %s of a parameter that param_shapes of the model files does not name. They are of different runs."
                    .formatted(states.keySet()));
          }
        });
  }

  /** The states of a parameter, the master weights last, without the step. */
  List<String> statesOf(String parameter) {
    SortedMap<String, FileStat> states = folders.get(parameter);
    if (states == null || !states.containsKey(States.MASTER)) {
      throw new RefusedException(
          where,
          "expected the file %s/%s.pt of a parameter that the model file's param_shapes names, found none. The Universal Checkpoint is not whole."
              .formatted(parameter, States.MASTER));
    }
    List<String> names = new ArrayList<>(states.keySet());
    names.remove(UniversalFiles.STEP);
    names.remove(States.MASTER);
    names.add(States.MASTER);
    return names;
  }

  /** What {@code step.pt} of a parameter says, and the file. */
  Optional<Saved> step(String parameter) {
    return Optional.ofNullable(folders.get(parameter).get(UniversalFiles.STEP)).map(this::saved);
  }

  private Saved saved(FileStat stat) {
    return new Saved(stat, read.get(stat));
  }

  /** A file that was read. */
  record Saved(FileStat stat, TorchFile file) {
    PickledValue root() {
      return PickledValue.root(file.path(), file.parse().root());
    }

    /** The whole of a storage. */
    Piece piece(String key) {
      TorchFile.Entry entry =
          file.storage(key)
              .orElseThrow(
                  () ->
                      new RefusedException(
                          file.path(),
                          "the file has no storage '%s'. It is damaged.".formatted(key)));
      return file.hasCrcs()
          ? Piece.of(stat, entry.payloadOffset(), entry.bytes(), entry.crc32())
          : Piece.unproven(stat, entry.payloadOffset(), entry.bytes());
    }
  }

  /**
   * A state of a parameter.
   *
   * @param dtype the type of an element
   * @param pieces where its elements are
   */
  record State(DType dtype, List<Piece> pieces) {}

  /**
   * One state of one parameter.
   *
   * @param ranks data-parallel ranks of the run that it was made of, for what older converters of
   *     ZeRO-3 joined behind the values; 0 if it was not of ZeRO-3
   * @param share what a tensor-parallel rank has of it, if it may be less than all
   * @throws RefusedException if it is not the whole of the parameter
   */
  State state(Parameter parameter, String state, int ranks, Optional<TensorShares.Share> share)
      throws IOException {
    if (share.isEmpty()) {
      return whole(parameter, state, ranks);
    }
    TensorShares.Share of = share.get();
    State whole =
        whole(new Parameter(parameter.name(), of.shape(), parameter.group()), state, ranks);
    FileStat file = folders.get(parameter.name()).get(state);
    if (!ofRanks.containsKey(file)) {
      ofRanks.put(
          file,
          new TensorPieces(
                  parameter.name(),
                  whole.pieces().get(0),
                  of.shape(),
                  of.locals(),
                  whole.dtype().bytes())
              .ofRanks(store));
    }
    return new State(whole.dtype(), ofRanks.get(file).get(of.own()));
  }

  private State whole(Parameter parameter, String state, int ranks) throws IOException {
    Saved saved = saved(folders.get(parameter.name()).get(state));
    PickledValue root = saved.root();
    boolean dict = root.isDict();
    if (dict && root.find("is_expert_param").isPresent()) {
      throw root.refused("is of an expert of AutoEP, which is not supported.");
    }
    PickledValue value = dict ? root.get(UniversalTensor.PARAM) : root;
    TensorNode tensor = value.tensor();
    long elements = parameter.elements();
    boolean whole =
        parameter.hasShape(tensor.shape())
            || (!dict && tensor.shape().length == 1 && tensor.numel() == elements);
    boolean padded =
        !whole && !dict && ranks > 1 && tensor.numel() == joinedWithPadding(elements, ranks);
    if ((!whole && !padded) || !tensor.isContiguous()) {
      throw value.refused(
          "has shape %s, param_shapes of the model file says %s for the parameter, joined of all ranks that have a part of it."
              .formatted(Arrays.toString(tensor.shape()), parameter.shape()));
    }
    if (!StateTensors.isNumber(tensor.dtype())) {
      throw value.refused(
          "is of type %s, in which quantised states are saved. State that is not one number for each weight is not supported."
              .formatted(tensor.dtype().torchName()));
    }
    tensor.requireInBounds(value.where());
    int width = tensor.dtype().bytes();
    if (elements == 0) {
      return new State(tensor.dtype(), List.of(Piece.zeros(0)));
    }
    Piece storage = saved.piece(tensor.storageKey());
    if (storage.bytes() != tensor.storage().bytes()) {
      throw value.refused(
          "the pickle says that its storage has %d bytes, the file has %d of it. The file is damaged."
              .formatted(tensor.storage().bytes(), storage.bytes()));
    }
    long from = tensor.storageOffset() * width;
    return new State(
        tensor.dtype(),
        List.of(
            storage.bytes() == elements * width
                ? storage
                : ComposedTorchFile.part(store, storage, from, elements * width)));
  }

  /**
   * What converters up to DeepSpeed 0.18.9 join: each rank's piece of {@code min(piece,
   * abs(elements - rank * piece))} elements, so that ranks beyond the end add padding behind the
   * values (checkpoint/ds_to_universal.py, {@code extract_zero_shards_stage3}).
   */
  static long joinedWithPadding(long elements, int ranks) {
    long piece = -Math.floorDiv(-elements, (long) ranks);
    long joined = 0;
    for (int rank = 0; rank < ranks; rank++) {
      joined += Math.min(piece, Math.abs(elements - rank * piece));
    }
    return joined;
  }
}

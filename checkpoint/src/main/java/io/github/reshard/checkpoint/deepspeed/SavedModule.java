package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.Addresses;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.storage.FileStat;
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
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * What the model files of one model-parallel rank hold under the names of the module's {@code
 * state_dict()}, and what each tensor is.
 *
 * @param mpRank the model-parallel rank; for a file of a pipeline's layer its tensor-parallel rank
 * @param file whose names these are, for messages
 * @param tensors in the order of the module
 * @param tied the names that are other names of parameters, and which parameter each names
 */
public record SavedModule(
    int mpRank, String file, List<SavedTensor> tensors, Map<String, String> tied) {

  /** What a tensor of a module is. */
  public enum Kind {
    /** A parameter that the optimizer trains. */
    TRAINED,
    /** A parameter that nothing trains. */
    FROZEN,
    /** A buffer. */
    BUFFER,
    /** Constants of quantised weights, what {@code get_extra_state} gives and the like. */
    CONSTANT
  }

  /**
   * A tensor of a module.
   *
   * @param name its name; that of the trained parameter if it is one
   * @param kind what it is
   * @param where it is, for messages
   * @param dtype the type of an element
   * @param shape elements per dimension
   * @param address where its elements begin; null if this file does not hold them
   */
  public record SavedTensor(
      String name, Kind kind, String where, DType dtype, List<Long> shape, Address address) {
    public SavedTensor {
      shape = List.copyOf(shape);
    }

    /** How many elements it has. */
    public long elements() {
      return shape.stream().reduce(1L, Math::multiplyExact);
    }
  }

  /** What a parameter is called in the module, whatever rank holds it. */
  public static String nameOf(PartitionedModel model, int parameter) {
    String name = model.parameters().get(parameter).name();
    return model.expertRank() < 0
        ? name
        : ExpertNames.of(model.parameters()).global(name, model.expertRank());
  }

  /**
   * Reads them.
   *
   * @param plan a plan for the same files
   * @throws RefusedException if a parameter is in no file, or a tensor is not contiguous
   */
  public static List<SavedModule> of(ReshardPlan plan, SourceStore store, CheckpointFiles files)
      throws IOException {
    List<SavedModule> modules = new ArrayList<>();
    Set<String> buffers = new HashSet<>();
    for (Map.Entry<Integer, FileStat> model : files.models().entrySet()) {
      Reading reading = new Reading(plan, store, model.getValue(), model.getKey());
      modules.add(reading.ofModelFile(false));
      buffers.addAll(new ModelStates(reading.root).bufferNames());
    }
    for (int rank : files.rankModels().keySet()) {
      modules.add(sharded(plan, store, files, rank));
    }
    for (FileStat stat : files.layers()) {
      CheckpointFiles.LayerName layer = CheckpointFiles.LayerName.parse(stat.name());
      modules.add(
          new Reading(plan, store, stat, layer.tensorRank())
              .ofTensors(layer.layer() + ".", buffers));
    }
    for (FileStat stat : files.experts()) {
      CheckpointFiles.ExpertName expert = CheckpointFiles.ExpertName.parse(stat.name());
      if (expert != null) {
        modules.add(new Reading(plan, store, stat, expert.mpRank()).ofTensors("", buffers));
      }
    }
    return modules;
  }

  /**
   * Reads that of the first model-parallel rank.
   *
   * @param plan a plan in which it has the parameters of all ranks
   */
  public static SavedModule ofFirstRank(ReshardPlan plan, SourceStore store, CheckpointFiles files)
      throws IOException {
    if (files.models().isEmpty()) {
      return sharded(plan, store, files, files.rankModels().firstKey());
    }
    int first = files.models().firstKey();
    return new Reading(plan, store, files.models().get(first), first).ofModelFile(false);
  }

  private static SavedModule sharded(
      ReshardPlan plan, SourceStore store, CheckpointFiles files, int mpRank) throws IOException {
    FileStat first = files.rankModels().get(mpRank).values().iterator().next();
    return new Reading(plan, store, first, mpRank).ofModelFile(true);
  }

  /** One file of a module. */
  private static final class Reading {
    private final ReshardPlan plan;
    private final int mpRank;
    private final TorchFile file;
    private final int source;
    private final PickledValue root;
    private final Map<Address, String> trainedAt = new HashMap<>();
    private final Set<String> trained = new HashSet<>();
    private final Set<String> frozen = new HashSet<>();

    Reading(ReshardPlan plan, SourceStore store, FileStat stat, int mpRank) throws IOException {
      this.plan = plan;
      this.mpRank = mpRank;
      try (RangedFile open = store.open(stat)) {
        this.file = TorchFile.read(open);
      }
      this.root = PickledValue.root(file.path(), file.parse().root());
      int index = 0;
      while (!plan.sources().get(index).stat().path().equals(stat.path())) {
        index++;
      }
      this.source = index;
      for (PartitionedModel model : plan.models()) {
        boolean isFrozen = model.isFrozen();
        for (int p = 0; p < model.parameters().size(); p++) {
          ModuleWeight weight = model.weights().get(p);
          if (weight != null && weight.source() != null && weight.source().file() == source) {
            trainedAt.put(weight.source(), nameOf(model, p));
          }
          if (model.mpRank() == mpRank && model.expertRank() == ParamId.NO_EXPERT) {
            (isFrozen ? frozen : trained).add(model.parameters().get(p).name());
          }
        }
      }
    }

    /**
     * @param sharded whether the module's parameters are placeholders, as ZeRO-3 leaves them
     */
    SavedModule ofModelFile(boolean sharded) {
      ModelStates model = new ModelStates(root);
      Map<String, TensorNode> module = model.module();
      Map<String, String> tied = new LinkedHashMap<>(ModuleParameters.tied(model));
      Set<String> buffers = model.bufferNames();
      Map<String, String> places = new HashMap<>();
      module.forEach(
          (name, tensor) -> {
            if (trained.contains(name)) {
              places.putIfAbsent(ModuleParameters.place(tensor), name);
            }
          });
      List<SavedTensor> tensors = new ArrayList<>();
      module.forEach(
          (name, tensor) -> {
            String where = file.path() + ", module." + name;
            if (tied.containsKey(name)) {
              return;
            }
            if (trained.contains(name) || frozen.contains(name)) {
              Kind kind = trained.contains(name) ? Kind.TRAINED : Kind.FROZEN;
              tensors.add(new SavedTensor(name, kind, where, tensor.dtype(), shape(tensor), null));
              return;
            }
            boolean buffer = buffers.contains(name);
            String same = places.putIfAbsent(ModuleParameters.place(tensor), name);
            if (same != null && !buffer && tensor.numel() > 0) {
              tied.put(name, same);
              return;
            }
            if (!buffer && tensor.numel() == 0 && sharded) {
              throw root.get("module")
                  .refused(
                      "has only a placeholder of %s, and no file holds its elements. Save the checkpoint again; with ZeRO-3 a parameter that is neither trained nor listed as frozen is nowhere in it."
                          .formatted(name));
            }
            Kind kind =
                buffer
                    ? Kind.BUFFER
                    : ModuleParameters.isConstant(module, name) ? Kind.CONSTANT : Kind.FROZEN;
            tensors.add(stored(name, kind, where, tensor));
          });
      return new SavedModule(mpRank, file.path(), List.copyOf(tensors), Map.copyOf(tied));
    }

    /**
     * What a file of one layer or one expert holds. In pipeline runs a parameter {@code
     * 3.fc.weight} is {@code fc.weight} in the file of layer 3 (DeepSpeed 0.19.6,
     * runtime/pipe/module.py, {@code save_state_dict}).
     *
     * @param prefix what the module has before the names in the file
     * @param buffers the names of buffers
     */
    SavedModule ofTensors(String prefix, Set<String> buffers) {
      List<SavedTensor> tensors = new ArrayList<>();
      for (PickledValue.Entry entry : root.children()) {
        if (entry.value().asTensor().isEmpty()) {
          continue;
        }
        String name = prefix + entry.key();
        SavedTensor stored =
            stored(
                name,
                buffers.contains(name) ? Kind.BUFFER : Kind.FROZEN,
                entry.value().where(),
                entry.value().tensor());
        String parameter = trainedAt.get(stored.address());
        tensors.add(
            parameter == null
                ? stored
                : new SavedTensor(
                    parameter, Kind.TRAINED, stored.where(), stored.dtype(), stored.shape(), null));
      }
      return new SavedModule(mpRank, file.path(), List.copyOf(tensors), Map.of());
    }

    private SavedTensor stored(String name, Kind kind, String where, TensorNode tensor) {
      if (!tensor.isContiguous()) {
        throw new RefusedException(
            where,
            "has shape %s and strides %s: its elements do not follow one another, and so cannot be copied as they are. Save the checkpoint again after .contiguous()."
                .formatted(Arrays.toString(tensor.shape()), Arrays.toString(tensor.stride())));
      }
      tensor.requireInBounds(where);
      return new SavedTensor(name, kind, where, tensor.dtype(), shape(tensor), address(tensor));
    }

    private Address address(TensorNode tensor) {
      if (tensor.numel() == 0) {
        return new Address(source, Addresses.NO_ENTRY, 0);
      }
      StorageList.requireThere(file, tensor.storage());
      TorchFile.Entry entry = file.storage(tensor.storageKey()).orElseThrow();
      SourceFile planned = plan.sources().get(source);
      for (int e = 0; e < planned.entries().size(); e++) {
        if (planned.entries().get(e).payloadOffset() == entry.payloadOffset()) {
          return new Address(
              source, e, entry.payloadOffset() + tensor.storageOffset() * tensor.dtype().bytes());
        }
      }
      throw new IllegalStateException(entry.name() + " is not in the plan");
    }

    private static List<Long> shape(TensorNode tensor) {
      return Arrays.stream(tensor.shape()).boxed().toList();
    }
  }
}

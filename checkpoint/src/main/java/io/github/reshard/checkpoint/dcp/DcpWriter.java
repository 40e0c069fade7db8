package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.SavedModule;
import io.github.reshard.checkpoint.deepspeed.SavedOptimizer;
import io.github.reshard.checkpoint.deepspeed.TensorChange;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import java.io.IOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Plans a distributed checkpoint of PyTorch, made of a checkpoint of DeepSpeed. */
public final class DcpWriter implements CheckpointWriter {
  /**
   * What is DeepSpeed's own in a model file and says nothing to another trainer (DeepSpeed 0.9.5 to
   * 0.19.8, runtime/engine.py, {@code _common_checkpoint_state}); all else is a counter, the
   * scheduler, or what the user handed to {@code save_checkpoint}.
   */
  private static final Set<String> OF_DEEPSPEED =
      Set.of(
          "module",
          "buffer_names",
          "optimizer",
          "param_shapes",
          "frozen_param_shapes",
          "shared_params",
          "frozen_param_fragments",
          "sparse_tensor_module_names",
          "csr_tensor_module_names",
          "dp_world_size",
          "mp_world_size",
          "checkpoint_parallel_dimensions",
          TensorChange.INFO,
          "num_experts",
          "ds_config",
          "ds_version");

  private static final Set<String> ONLY_FOR_DEEPSPEED = Set.of("data_sampler", "random_ltd");

  private final CheckpointFiles files;
  private final DcpDialect dialect;
  private final int filesPerCheckpoint;

  /**
   * @param files of the source
   * @param dialect under which keys its program expects what
   * @param filesPerCheckpoint into how many data files; 0 for as many as the source has ranks
   */
  public DcpWriter(CheckpointFiles files, DcpDialect dialect, int filesPerCheckpoint) {
    this.files = files;
    this.dialect = dialect;
    this.filesPerCheckpoint = filesPerCheckpoint;
  }

  /**
   * Plans it.
   *
   * @throws RefusedException if the checkpoint holds what a distributed checkpoint has no place for
   */
  @Override
  public ReshardPlan plan(TrainingState state, Target target) throws IOException {
    requireNames(files, state.checkpoint());
    int ranks = state.dataParallelRanks();
    TrainingState one = JoinedRanks.of(state, "Leave --outputFormat out.");
    ReshardPlan read = PlanDraft.ofNothing(one, target);
    DcpDraft.requireElementwise(read);
    List<String> left = new ArrayList<>();
    DcpContent content = content(one, files, read, left);
    ReshardPlan plan =
        DcpDraft.plan(read, content, dialect, filesPerCheckpoint == 0 ? ranks : filesPerCheckpoint);
    if (left.isEmpty()) {
      return plan;
    }
    List<String> notes = new ArrayList<>(plan.notes());
    notes.add("not taken along: " + String.join("; ", left));
    return plan.withNotes(notes);
  }

  /**
   * Whether {@code key} of a model file is DeepSpeed's own, and says nothing to another trainer.
   */
  static boolean isDeepSpeeds(String key) {
    return OF_DEEPSPEED.contains(key) || ONLY_FOR_DEEPSPEED.contains(key);
  }

  /**
   * @throws RefusedException if the parameters are not those of one model under plain data
   *     parallelism
   */
  static void requireOneModel(CheckpointFiles files, String where) {
    requireNames(files, where);
    if (files.models().size() + files.rankModels().size() > 1) {
      throw refused(where, "more than one model-parallel rank");
    }
  }

  /**
   * @throws RefusedException if the parameters have names that no FSDP model has
   */
  static void requireNames(CheckpointFiles files, String where) {
    if (!files.experts().isEmpty()) {
      throw refused(
          where, "a mixture of experts, whose parameters have the same names on different ranks");
    }
    if (!files.layers().isEmpty()) {
      throw refused(where, "a pipeline, whose parameters are named after its layers");
    }
  }

  private static RefusedException refused(String where, String problem) {
    return new RefusedException(
        where,
        "it has %s, and no FSDP model has such parameters. Only checkpoints of plain data parallelism are made of a distributed checkpoint; to one go those of tensor-parallel ranks, too, and are compared with one."
            .formatted(problem));
  }

  private static DcpContent content(
      TrainingState state, CheckpointFiles files, ReshardPlan read, List<String> left)
      throws IOException {
    List<DcpContent.Tensor> tensors = new ArrayList<>();
    SavedModule module = SavedModule.ofFirstRank(read, state.store(), files);
    for (SavedModule.SavedTensor tensor : module.tensors()) {
      if (tensor.address() != null) {
        tensors.add(
            new DcpContent.Tensor(tensor.name(), tensor.dtype(), tensor.shape(), tensor.address()));
      }
    }
    return new DcpContent(
        SavedOptimizer.of(state).groups(), tensors, module.tied(), objects(state, left));
  }

  /** The counters, the scheduler and the client's state; what cannot go along is added to left. */
  private static Map<String, PyObject> objects(TrainingState state, List<String> left) {
    Map<String, PyObject> objects = new LinkedHashMap<>();
    for (PickledValue.Entry entry : state.parts().get(0).model().orElseThrow().root().children()) {
      if (OF_DEEPSPEED.contains(entry.key()) || entry.value().node() == PyNone.NONE) {
        continue;
      }
      if (ONLY_FOR_DEEPSPEED.contains(entry.key())) {
        left.add(entry.key() + ", which only DeepSpeed has");
      } else if (!StorageKeys.references(entry.value().node()).isEmpty()) {
        left.add(entry.key() + " of the client's state, which holds tensors");
      } else {
        objects.put(entry.key(), entry.value().node());
      }
    }
    return objects;
  }
}

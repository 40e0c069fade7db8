package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Step;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.SavedModule;
import io.github.reshard.checkpoint.deepspeed.SavedOptimizer;
import io.github.reshard.checkpoint.format.Addresses;
import io.github.reshard.checkpoint.format.CheckpointWriter;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** Plans a distributed checkpoint of PyTorch, made of a checkpoint of DeepSpeed. */
public final class DcpWriter implements CheckpointWriter {
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
    Map<List<Step>, PyObject> objects = new LinkedHashMap<>();
    Map<List<Step>, DcpContent.Tensor> clients = new LinkedHashMap<>();
    ReadFile model = state.parts().get(0).model().orElseThrow();
    ClientState.onlyForDeepSpeed(model.root())
        .forEach(key -> left.add(key + ", which only DeepSpeed has"));
    for (ClientState.Leaf leaf : ClientState.of(model.root())) {
      Optional<TensorNode> tensor = leaf.tensor();
      if (tensor.isPresent() && tensor.get().isContiguous()) {
        clients.put(leaf.path(), clientTensor(read, model, leaf, tensor.get()));
      } else if (leaf.holdsTensors()) {
        left.add(
            leaf.key()
                + (tensor.isPresent()
                    ? " of the client's state, whose elements do not follow one another"
                    : " of the client's state, which is no tensor and holds some"));
      } else if (leaf.path().size() > 1 || leaf.value().node() != PyNone.NONE) {
        objects.put(leaf.path(), leaf.value().node());
      }
    }
    return new DcpContent(
        SavedOptimizer.of(state).groups(), tensors, module.tied(), objects, clients);
  }

  private static DcpContent.Tensor clientTensor(
      ReshardPlan read, ReadFile file, ClientState.Leaf leaf, TensorNode tensor) {
    return new DcpContent.Tensor(
        leaf.key(),
        tensor.dtype(),
        Arrays.stream(tensor.shape()).boxed().toList(),
        Addresses.of(
            read.sources().get(file.source()),
            file.source(),
            file.file(),
            leaf.value().where(),
            tensor));
  }
}

package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ReplicaComparison;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.parallel.PipelineLayers;
import io.github.reshard.checkpoint.parallel.PipelineTarget;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.PipelineLayout;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Files of ZeRO-1 for another number of pipeline stages. The layers' own files stay as they are;
 * every stage has a model file that says which parameters it has, and the optimizer files of its
 * data-parallel ranks.
 */
final class RestagedFlat {
  private final PlanDraft draft;
  private final TrainingState state;
  private final PipelineTarget target;
  private final int tensorRanks;

  RestagedFlat(PlanDraft draft, PipelineTarget target) {
    this.draft = draft;
    this.state = draft.state();
    this.target = target;
    int ranks = 1;
    while (!StageSets.layerFiles(state, ranks).isEmpty()) {
      ranks++;
    }
    this.tensorRanks = ranks;
  }

  /**
   * Adds the files of all stages.
   *
   * @throws RefusedException if it is no pipeline, or how its layers are divided is not known
   */
  void add() throws IOException {
    int parts = state.parts().size();
    if (StageSets.layerFiles(state, 0).isEmpty() || parts % tensorRanks != 0) {
      throw new RefusedException(
          state.checkpoint(),
          "has no files of layers (layer_00-model_states.pt), so it is no pipeline of DeepSpeed"
              + " whose stages could change. Leave --targetPipelineParallelSize out.");
    }
    draft.note(
        new ModelParallelism(parts / tensorRanks, tensorRanks).grid(state.dataParallelRanks())
            + " → "
            + new ModelParallelism(target.stages(), tensorRanks).grid(draft.worldSize()));
    for (int tensorRank = 0; tensorRank < tensorRanks; tensorRank++) {
      List<ModelPart> stages = new ArrayList<>();
      for (int stage = 0; stage < parts / tensorRanks; stage++) {
        stages.add(state.parts().get(stage * tensorRanks + tensorRank));
      }
      add(stages, tensorRank);
    }
  }

  private void add(List<ModelPart> stages, int tensorRank) throws IOException {
    List<SavedFlat> saved = stages.stream().map(this::saved).toList();
    StageSets sets =
        new StageSets(state.checkpoint(), stages.stream().map(state::trained).toList());
    PipelineLayers.Division division = division(sets.layers(state, tensorRank));
    requireOrdered(sets);
    ParameterSet joined = sets.joined(tensorRank);
    List<ParamGroups> groups = groups(sets, saved, division);
    List<FlatLayout> layouts = new ArrayList<>();
    List<List<Integer>> numbers = new ArrayList<>();
    Map<String, Integer> byName = new HashMap<>();
    for (int p = 0; p < joined.parameters().size(); p++) {
      byName.put(joined.parameters().get(p).name(), p);
    }
    for (ParamGroups ofStage : groups) {
      FlatLayout layout = ofStage.layout(draft.worldSize(), ParamGroups.DENSE, 0);
      layouts.add(layout);
      numbers.add(layout.parameters().stream().map(p -> byName.get(p.name())).toList());
    }
    int model =
        draft.addModel(
            joined, new PipelineLayout(joined.parameters(), layouts, numbers, sets.groups()));
    requireAlike(saved, model);
    List<List<String>> buffers = buffers(sets, stages, division);
    for (int stage = 0; stage < division.stages(); stage++) {
      int mpRank = stage * tensorRanks + tensorRank;
      ModelPart template = stages.get(stage < stages.size() ? stage : 0);
      List<GroupRef> refs = new ArrayList<>();
      for (int g = 0; g < sets.groups().size(); g++) {
        refs.add(new GroupRef(model, g, stage, stage));
      }
      addModelFile(template, mpRank, refs, buffers.get(stage), division.stages());
      List<Shard> shards = saved.get(stage < stages.size() ? stage : 0).shards();
      for (int rank = 0; rank < draft.worldSize(); rank++) {
        addOptimizerFile(shards, stage, rank, mpRank, refs);
      }
    }
    EditedFlat.addPadding(draft, Map.of(model, joined));
  }

  private SavedFlat saved(ModelPart part) {
    if (!(part.origin().orElse(null) instanceof SavedFlat saved)
        || saved.sets().groups().expertParallelSizes().stream()
            .anyMatch(size -> size != ParamGroups.DENSE)) {
      throw new RefusedException(
          state.checkpoint(),
          "the stages of a pipeline only change where its optimizer is partitioned by ZeRO-1 and it"
              + " has no experts. Leave --targetPipelineParallelSize out.");
    }
    return saved;
  }

  private PipelineLayers.Division division(PipelineLayers layers) {
    try {
      if (target.stages() == 1) {
        return layers.together(target.script());
      }
      if (target.method().isEmpty()) {
        throw new RefusedException(
            state.checkpoint(),
            "which layers each of %d stages has depends on the partition_method of the script, and a checkpoint does not say it. Give --pipelineMethod=parameters (PipelineModule's default), uniform or type:REGEX, or the stages themselves: --pipelineParts=0,5,10."
                .formatted(target.stages()));
      }
      return layers.divided(target.stages(), target.method().get(), target.script());
    } catch (PipelineLayers.Undecided e) {
      throw new RefusedException(
          state.checkpoint(),
          e.getMessage()
              + ". Say what the layers are, as DeepSpeed prints them at the start, with"
              + " --pipelineLayers=KEY=Embedding,Block*24,lambda,KEY=Embedding, or the stages"
              + " themselves with --pipelineParts=0,5,10.");
    } catch (IllegalArgumentException e) {
      throw new RefusedException(state.checkpoint(), e.getMessage() + ".");
    }
  }

  /** The source's own stages have to be in the order that the target's will be in. */
  private void requireOrdered(StageSets sets) {
    for (ParameterSet stage : sets.stages()) {
      int group = -1;
      int layer = -1;
      for (Parameter parameter : stage.parameters()) {
        int own = sets.layer(parameter.name());
        boolean next = parameter.group() == group && own >= layer;
        if (!next && parameter.group() == group) {
          throw new RefusedException(
              state.checkpoint(),
              "param group %d has %s behind parameters of later layers, so that what its order is on other stages is not known."
                  .formatted(group, parameter.name()));
        }
        group = parameter.group();
        layer = own;
      }
    }
  }

  /** The param groups of each stage of the target. */
  private List<ParamGroups> groups(
      StageSets sets, List<SavedFlat> saved, PipelineLayers.Division division) {
    ParamGroups first = saved.get(0).sets().groups();
    List<ParamGroups> stages = new ArrayList<>();
    for (int stage = 0; stage < division.stages(); stage++) {
      List<ParamGroups.Group> groups = new ArrayList<>();
      for (int g = 0; g < first.groups().size(); g++) {
        List<Parameter> parameters = parameters(sets, division, stage, g);
        if (parameters.isEmpty()) {
          throw new RefusedException(
              state.checkpoint(),
              "stage %d of %d would have no parameter of param group %d, and what DeepSpeed makes of an empty group is up to the script. Choose other stages."
                  .formatted(stage, division.stages(), g));
        }
        groups.add(new ParamGroups.Group(parameters, ParamGroups.DENSE));
      }
      stages.add(new ParamGroups(groups, first.roundRobin(), first.dataFirst(), first.paddings()));
    }
    for (SavedFlat other : saved) {
      ParamGroups of = other.sets().groups();
      if (of.roundRobin() != first.roundRobin() || !of.paddings().equals(first.paddings())) {
        throw new RefusedException(
            state.checkpoint(),
            "the stages lay out their partitions in different ways. The files are of different"
                + " runs.");
      }
    }
    return stages;
  }

  /** What a stage has of a param group: its tied layers, then its layers in order. */
  private static List<Parameter> parameters(
      StageSets sets, PipelineLayers.Division division, int stage, int group) {
    Map<String, Parameter> known = new LinkedHashMap<>();
    for (ParameterSet source : sets.stages()) {
      for (Parameter parameter : source.parameters()) {
        if (parameter.group() == group) {
          known.putIfAbsent(parameter.name(), parameter);
        }
      }
    }
    List<Parameter> parameters = new ArrayList<>();
    for (String key : division.tied().get(stage)) {
      known.values().stream()
          .filter(p -> sets.layer(p.name()) < 0 && sets.key(p.name()).equals(key))
          .forEach(parameters::add);
    }
    division
        .stageOf()
        .forEach(
            (layer, of) -> {
              if (of == stage) {
                known.values().stream()
                    .filter(p -> sets.layer(p.name()) == layer)
                    .forEach(parameters::add);
              }
            });
    return parameters;
  }

  /** What is not partitioned has to be the same on all stages: only some of it goes on. */
  private void requireAlike(List<SavedFlat> saved, int model) throws IOException {
    List<FlatOptimizerRewrite.Group> groups = new ArrayList<>();
    int count = saved.get(0).sets().groups().groups().size();
    for (int g = 0; g < count; g++) {
      GroupRef ref = new GroupRef(model, g, 0, 0);
      groups.add(
          FlatOptimizerRewrite.Group.of(draft.models().get(model), ref.target(draft.models()), g));
    }
    ReplicaComparison comparison =
        new ReplicaComparison(
            state.store(), state.sources(), file -> FlatOptimizerRewrite.comparable(file, groups));
    for (int stage = 0; stage < saved.size(); stage++) {
      Shard shard = saved.get(stage).shards().get(0);
      comparison
          .add(stage, shard.source(), shard.file())
          .ifPresent(note -> draft.note("of the stages, " + note));
    }
  }

  /** The names of each stage's buffers. */
  private static List<List<String>> buffers(
      StageSets sets, List<ModelPart> stages, PipelineLayers.Division division) {
    Set<String> known = new LinkedHashSet<>();
    for (ModelPart part : stages) {
      new ModelStates(part.model().orElseThrow().root())
          .root()
          .findPresent("buffer_names")
          .ifPresent(
              names -> names.items().stream().map(PickledValue::asString).forEach(known::add));
    }
    List<List<String>> buffers = new ArrayList<>();
    for (int s = 0; s < division.stages(); s++) {
      int stage = s;
      List<String> own = new ArrayList<>();
      for (String key : division.tied().get(stage)) {
        known.stream()
            .filter(name -> sets.layer(name) < 0 && sets.key(name).equals(key))
            .forEach(own::add);
      }
      division
          .stageOf()
          .forEach(
              (layer, of) -> {
                if (of == stage) {
                  known.stream().filter(name -> sets.layer(name) == layer).forEach(own::add);
                }
              });
      buffers.add(own);
    }
    return buffers;
  }

  private void addModelFile(
      ModelPart part, int mpRank, List<GroupRef> refs, List<String> buffers, int stages) {
    ReadFile template = part.model().orElseThrow();
    TorchRecipe recipe =
        new StageModelRecipe(
            template.source(),
            refs,
            buffers,
            stages,
            stages * tensorRanks,
            mpRank == 0 && part.mpRank() == 0);
    draft.addFile(draft.inTag("mp_rank_%02d_model_states.pt".formatted(mpRank)), recipe, template);
  }

  private void addOptimizerFile(
      List<Shard> shards, int stage, int rank, int mpRank, List<GroupRef> refs) {
    Shard shard = shards.get(rank < shards.size() ? rank : 0);
    ReadFile template = new ReadFile(shard.source(), shard.file());
    TorchRecipe recipe =
        new FlatOptimizerRecipe(shard.source(), rank, refs, ZeroStage.AS_SAVED, null);
    TorchTarget.Pickled content = draft.pickled(recipe, template);
    String name = state.sources().get(shard.source()).stat().name();
    PlanDraft.Written written =
        draft.addFile(
            draft.inTag(CheckpointFiles.nameOf(name, rank, mpRank)), recipe, content, template);
    for (int e = 0; e < content.storages().size(); e++) {
      if (content.storages().get(e).content() instanceof Rewritten.Content.PartitionOf piece) {
        GroupRef ref = refs.get(piece.group());
        draft.place(
            ref.model(),
            new Partition(stage * draft.worldSize() + rank, ref.group(), piece.state()),
            written.storages().get(e));
      }
    }
  }
}

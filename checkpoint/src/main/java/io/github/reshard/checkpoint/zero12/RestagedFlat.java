package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.LayerFiles;
import io.github.reshard.checkpoint.deepspeed.TensorParts;
import io.github.reshard.checkpoint.deepspeed.TensorRecipe;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.parallel.PipelineLayers;
import io.github.reshard.checkpoint.parallel.PipelineTarget;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PipelineLayout;
import io.github.reshard.checkpoint.state.TensorParallelLayout;
import io.github.reshard.checkpoint.state.ZeroLayout;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.IntStream;

/**
 * Files of ZeRO-1 for another number of pipeline stages or tensor-parallel ranks of a pipeline, or
 * of both. Every stage has a model file that says which parameters it has, and the optimizer files
 * of its data-parallel ranks. The layers' own files stay as they are unless tensor-parallel ranks
 * have other parts of them.
 */
final class RestagedFlat {
  private final PlanDraft draft;
  private final TrainingState state;
  private final Optional<PipelineTarget> target;
  private final int savedRanks;
  private final int tensorRanks;
  private final boolean recut;

  /**
   * @param target the stages, if they are not to stay as saved
   */
  RestagedFlat(PlanDraft draft, Optional<PipelineTarget> target) {
    this.draft = draft;
    this.state = draft.state();
    this.target = target;
    this.savedRanks = LayerFiles.tensorRanks(state);
    this.recut = state.parts().get(0).origin().orElse(null) instanceof TensorParts;
    this.tensorRanks = recut ? state.parallelism().target().tensorDegree() : savedRanks;
  }

  /**
   * Adds the files of all stages.
   *
   * @throws RefusedException if it is no pipeline, or how its layers are divided is not known
   */
  void add() throws IOException {
    int parts = state.parts().size();
    if (LayerFiles.of(state, 0).isEmpty() || parts % tensorRanks != 0) {
      throw new RefusedException(
          state.checkpoint(),
          "has no files of layers (layer_00-model_states.pt), so it is no pipeline of DeepSpeed"
              + " whose stages could change. Leave --targetPipelineParallelSize out.");
    }
    int stages = parts / tensorRanks;
    draft.setParallelism(
        ModelParallelism.of(target.map(PipelineTarget::stages).orElse(stages), tensorRanks));
    for (int first = 0; first < tensorRanks; first += recut ? tensorRanks : 1) {
      List<List<ModelPart>> ofStages = new ArrayList<>();
      for (int stage = 0; stage < stages; stage++) {
        int from = stage * tensorRanks + first;
        ofStages.add(state.parts().subList(from, from + (recut ? tensorRanks : 1)));
      }
      add(ofStages, first);
    }
  }

  /**
   * Adds the files of tensor-parallel ranks that share parameters, or of one.
   *
   * @param stages for each stage of the source, by tensor-parallel rank what it is made of
   * @param firstRank the first of the tensor-parallel ranks
   */
  private void add(List<List<ModelPart>> stages, int firstRank) throws IOException {
    List<ModelPart> firsts = stages.stream().map(parts -> parts.get(0)).toList();
    List<List<ModelPart>> sources = firsts.stream().map(RestagedFlat::sources).toList();
    List<SavedFlat> saved = sources.stream().flatMap(List::stream).map(this::saved).toList();
    StageSets sets =
        new StageSets(state.checkpoint(), firsts.stream().map(state::trained).toList());
    StageDivision division =
        target.isEmpty()
            ? StageDivision.asSaved(sets, firsts)
            : StageDivision.of(sets, firsts, division(target.get(), sets, firsts, firstRank));
    ParameterSet joined = sets.joined(firstRank);
    int shares = stages.get(0).size();
    int model = draft.addModel(joined, layout(sets, saved, division, joined, shares));
    requireAlike(sources, model);
    for (int stage = 0; stage < division.stages(); stage++) {
      for (int share = 0; share < shares; share++) {
        ModelPart template = stages.get(stage < stages.size() ? stage : 0).get(share);
        add(
            template,
            stage * tensorRanks + firstRank + share,
            model,
            stage * shares + share,
            division.buffers().get(stage),
            division.stages());
      }
    }
    if (recut) {
      new RecutLayers(draft, model, StageDivision.buffersOf(firsts), savedRanks, tensorRanks).add();
    }
    EditedFlat.addPadding(draft, Map.of(model, joined));
  }

  /** The source's parts that one of the target is made of. */
  private static List<ModelPart> sources(ModelPart part) {
    return part.origin().orElse(null) instanceof TensorParts of ? of.sources() : List.of(part);
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

  private PipelineLayers.Division division(
      PipelineTarget to, StageSets sets, List<ModelPart> firsts, int firstRank) {
    StageSets own = sets;
    if (recut) {
      own =
          new StageSets(
              state.checkpoint(),
              firsts.stream()
                  .map(part -> ((TensorParts) part.origin().orElseThrow()).sets().get(0))
                  .toList());
    }
    PipelineLayers layers =
        own.layers(state, firstRank, (set, p) -> set.parameters().get(p).elements());
    PipelineLayers there =
        own.layers(
            state,
            firstRank,
            (set, p) ->
                sets.stages()
                    .get(set.mpRank() / savedRanks)
                    .shares()
                    .get(0)
                    .tensors()
                    .get(p)
                    .elements());
    try {
      if (to.stages() == 1) {
        return layers.together(to.script());
      }
      if (to.method().isEmpty()) {
        throw new RefusedException(
            state.checkpoint(),
            "which layers each of %d stages has depends on the partition_method of the script, and a checkpoint does not say it. Give --pipelineMethod=parameters (PipelineModule's default), uniform or type:REGEX, or the stages themselves: --pipelineParts=0,5,10."
                .formatted(to.stages()));
      }
      return layers.divided(to.stages(), to.method().get(), to.script(), there);
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

  /** How the parameters lie on the target's ranks, counted stage after stage. */
  private ZeroLayout layout(
      StageSets sets,
      List<SavedFlat> saved,
      StageDivision division,
      ParameterSet joined,
      int shares) {
    ParamGroups first = saved.get(0).sets().groups();
    for (SavedFlat other : saved) {
      ParamGroups of = other.sets().groups();
      if (of.roundRobin() != first.roundRobin() || !of.paddings().equals(first.paddings())) {
        throw new RefusedException(
            state.checkpoint(),
            "the model-parallel ranks lay out their partitions in different ways. The files are of"
                + " different runs.");
      }
    }
    Map<String, Integer> numbers = new HashMap<>();
    for (int p = 0; p < joined.parameters().size(); p++) {
      numbers.put(joined.parameters().get(p).name(), p);
    }
    List<ZeroLayout> layouts = new ArrayList<>();
    List<List<Integer>> parameters = new ArrayList<>();
    for (List<List<Parameter>> groups : division.groups()) {
      List<Parameter> own = groups.stream().flatMap(List::stream).toList();
      List<List<LocalTensor>> locals =
          IntStream.range(0, shares).mapToObj(share -> sets.locals(own, share)).toList();
      List<FlatLayout> ofShares = new ArrayList<>();
      for (List<LocalTensor> local : locals) {
        ofShares.add(
            new ParamGroups(
                    groups.stream()
                        .map(of -> new ParamGroups.Group(of, ParamGroups.DENSE))
                        .toList(),
                    first.roundRobin(),
                    first.dataFirst(),
                    first.paddings())
                .withParameters(shaped(own, local))
                .layout(draft.worldSize(), ParamGroups.DENSE, 0));
      }
      layouts.add(recut ? new TensorParallelLayout(own, locals, ofShares) : ofShares.get(0));
      parameters.add(own.stream().map(p -> numbers.get(p.name())).toList());
    }
    return new PipelineLayout(joined.parameters(), layouts, parameters, sets.groups());
  }

  private static List<Parameter> shaped(List<Parameter> parameters, List<LocalTensor> locals) {
    return IntStream.range(0, locals.size())
        .mapToObj(
            p ->
                new Parameter(
                    parameters.get(p).name(), locals.get(p).shape(), parameters.get(p).group()))
        .toList();
  }

  /** What is not partitioned has to be the same on all ranks of which only some goes on. */
  private void requireAlike(List<List<ModelPart>> sources, int model) throws IOException {
    List<List<ModelPart>> alike =
        target.isPresent() ? List.of(sources.stream().flatMap(List::stream).toList()) : sources;
    for (List<ModelPart> parts : alike) {
      SharedStates.requireAlike(
          draft, model, parts.stream().map(part -> part.optimizers().get(0)).toList());
    }
  }

  /** Adds the files of a model-parallel rank. */
  private void add(
      ModelPart template, int mpRank, int model, int holder, List<String> buffers, int stages) {
    List<GroupRef> refs =
        IntStream.range(0, draft.models().get(model).target().buckets())
            .mapToObj(group -> new GroupRef(model, group, holder, holder))
            .toList();
    ReadFile file = template.model().orElseThrow();
    boolean keepsTies = mpRank == 0 && template.mpRank() == 0;
    TorchRecipe recipe =
        new StageModelRecipe(file.source(), refs, buffers, stages, stages * tensorRanks, keepsTies);
    draft.addFile(
        draft.inTag("mp_rank_%02d_model_states.pt".formatted(mpRank)),
        form(recipe, template, model, stages),
        file);
    for (int rank = 0; rank < draft.worldSize(); rank++) {
      ReadFile shard = template.optimizers().get(template.templateOf(rank));
      TorchRecipe ofRank =
          form(
              new FlatOptimizerRecipe(shard.source(), rank, refs, ZeroStage.AS_SAVED, null),
              template,
              model,
              stages);
      String name = state.sources().get(shard.source()).stat().name();
      draft.addRankFile(
          draft.inTag(CheckpointFiles.nameOf(name, rank, mpRank)),
          ofRank,
          draft.pickled(ofRank, shard),
          shard,
          holder * draft.worldSize() + rank,
          model);
    }
  }

  private TorchRecipe form(TorchRecipe recipe, ModelPart template, int model, int stages) {
    return template.origin().orElse(null) instanceof TensorParts of
        ? TensorRecipe.ofStage(recipe, model, of, stages)
        : recipe;
  }
}

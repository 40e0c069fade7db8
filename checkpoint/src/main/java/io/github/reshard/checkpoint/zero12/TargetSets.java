package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.parallel.ExpertTarget;
import io.github.reshard.checkpoint.state.ParameterSet;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * The parameters of a model-parallel rank as they lie in the target, registered with a plan.
 *
 * @param sets the models in the plan
 * @param models the index of each model, and what was read of it
 * @param regrouping what changes of the param groups in the files, if anything does
 */
record TargetSets(
    FlatSets sets, Map<Integer, ParameterSet> models, Optional<Regrouping> regrouping) {

  /**
   * Registers them.
   *
   * @param stage of the target, or {@link ZeroStage#AS_SAVED}
   * @param experts how those of the target are divided, if not as saved
   * @throws RefusedException if the experts do not fall on the target's ranks evenly
   */
  static TargetSets add(
      PlanDraft draft, ModelPart part, SavedFlat saved, int stage, Optional<ExpertTarget> experts) {
    ParamGroups groups = atStage(part, stage);
    Optional<ExpertDegree> degree = degree(draft, groups, saved, experts);
    ParamGroups turned = degree.map(ExpertDegree::groups).orElse(groups);
    Map<Integer, List<Integer>> indices = new HashMap<>();
    Map<Integer, ParameterSet> models = new LinkedHashMap<>();
    for (int size : groups.expertParallelSizes()) {
      List<ParameterSet> read =
          saved.sets().indices().get(size).stream().map(draft.state().parameters()::get).toList();
      if (size == ParamGroups.DENSE) {
        int model =
            draft.addModel(read.get(0), turned.layout(draft.worldSize(), ParamGroups.DENSE, 0));
        models.put(model, read.get(0));
        indices.put(size, List.of(model));
        continue;
      }
      int to = degree.isPresent() ? experts.get().size() : size;
      requireDivides(draft, to);
      ParameterSet joined =
          ExpertSets.joined(draft.state().checkpoint(), read, draft.state().dataParallelRanks());
      List<Integer> templates = new ArrayList<>();
      for (int g : turned.indices(to)) {
        int template = degree.isPresent() ? degree.get().templates().get(g) : g;
        templates.add(groups.indices(size).indexOf(template));
      }
      if (degree.isPresent()) {
        requireMovable(draft, joined, templates);
      }
      List<FlatLayout> layouts = new ArrayList<>();
      for (int rank = 0; rank < to; rank++) {
        layouts.add(turned.layout(draft.worldSize(), to, rank));
      }
      int model = draft.addModel(joined, ExpertSets.target(joined, layouts, templates));
      models.put(model, joined);
      indices.put(to, Collections.nCopies(to, model));
    }
    return new TargetSets(
        new FlatSets(turned, indices), models, degree.map(d -> regrouping(d, experts)));
  }

  /** The groups of a part that was read, as they lie at a stage. */
  static ParamGroups atStage(ModelPart part, int stage) {
    SavedFlat saved = (SavedFlat) part.origin().orElseThrow();
    ParamGroups groups = saved.sets().groups();
    if (stage == ZeroStage.AS_SAVED) {
      return groups;
    }
    ModelStates model = new ModelStates(part.model().orElseThrow().root());
    DsConfig config = DsConfig.of(model.root());
    return FlatPaddings.atStage(stage, model, groups, saved.shards().get(0).states())
        .withRoundRobin(config.roundRobin() && !config.makesBf16Optimizer(stage));
  }

  /** The groups at the expert-parallel size that was asked for, if it is another one. */
  private static Optional<ExpertDegree> degree(
      PlanDraft draft, ParamGroups groups, SavedFlat saved, Optional<ExpertTarget> experts) {
    if (experts.isEmpty()
        || groups.expertParallelSizes().stream()
            .filter(size -> size != ParamGroups.DENSE)
            .toList()
            .equals(List.of(experts.get().size()))) {
      return Optional.empty();
    }
    OptimizerStates states = saved.shards().get(0).states();
    ExpertDegree degree =
        ExpertDegree.of(
            draft.state().checkpoint(),
            groups,
            experts.get(),
            draft.worldSize(),
            group -> group > 0 && states.hasSameOptions(group - 1, group));
    return Optional.of(degree);
  }

  private static Regrouping regrouping(ExpertDegree degree, Optional<ExpertTarget> experts) {
    return new Regrouping(
        degree.templates(),
        degree.groups().groups().stream()
            .map(group -> group.expertParallelSize() != ParamGroups.DENSE)
            .toList(),
        experts.get().size());
  }

  private static void requireDivides(PlanDraft draft, int size) {
    if (draft.worldSize() % size != 0) {
      throw ParamGroups.notDivided(
          draft.state().checkpoint(), size, draft.state().dataParallelRanks(), draft.worldSize());
    }
  }

  private static void requireMovable(
      PlanDraft draft, ParameterSet joined, List<Integer> templates) {
    if (!joined.whole().isEmpty()) {
      throw new RefusedException(
          draft.state().checkpoint(),
          "experts are trained with Muon, whose momentum was not seen to move to another"
              + " expert-parallel size. Leave --targetExpertParallelSize out.");
    }
    if (templates.size() != joined.states().size()
        && joined.states().stream().distinct().count() > 1) {
      throw new RefusedException(
          draft.state().checkpoint(),
          "the param groups of experts have different states, %s, so that they cannot be divided anew. Leave --targetExpertParallelSize out."
              .formatted(joined.states()));
    }
  }
}

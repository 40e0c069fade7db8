package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.parallel.PipelineLayers;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * What each stage of the target has.
 *
 * @param groups for each stage and param group the parameters, in order
 * @param buffers for each stage the names of its buffers
 */
record StageDivision(List<List<List<Parameter>>> groups, List<List<String>> buffers) {

  /** How many stages there are. */
  int stages() {
    return groups.size();
  }

  /**
   * The source's own stages.
   *
   * @param files of each stage
   */
  static StageDivision asSaved(StageSets sets, List<ModelPart> files) {
    List<List<List<Parameter>>> groups = new ArrayList<>();
    for (var set : sets.stages()) {
      List<List<Parameter>> ofStage = new ArrayList<>();
      for (int g = 0; g < sets.groups().size(); g++) {
        int group = g;
        ofStage.add(set.parameters().stream().filter(p -> p.group() == group).toList());
      }
      groups.add(ofStage);
    }
    return new StageDivision(
        groups, files.stream().map(file -> List.copyOf(buffersOf(List.of(file)))).toList());
  }

  /**
   * Other stages than the source's.
   *
   * @param files of each stage of the source
   * @throws RefusedException if a stage would have nothing of a param group, or the source's own
   *     parameters are in an order that no rule gives
   */
  static StageDivision of(StageSets sets, List<ModelPart> files, PipelineLayers.Division division) {
    sets.requireOrdered();
    List<List<List<Parameter>>> groups = new ArrayList<>();
    List<List<String>> buffers = new ArrayList<>();
    for (int stage = 0; stage < division.stages(); stage++) {
      List<List<Parameter>> ofStage = new ArrayList<>();
      for (int g = 0; g < sets.groups().size(); g++) {
        List<Parameter> parameters = parameters(sets, division, stage, g);
        if (parameters.isEmpty()) {
          throw new RefusedException(
              sets.where(),
              "stage %d of %d would have no parameter of param group %d, and what DeepSpeed makes of an empty group is up to the script. Choose other stages."
                  .formatted(stage, division.stages(), g));
        }
        ofStage.add(parameters);
      }
      groups.add(ofStage);
      buffers.add(inOrder(sets, division, stage, buffersOf(files)));
    }
    return new StageDivision(groups, buffers);
  }

  private static List<Parameter> parameters(
      StageSets sets, PipelineLayers.Division division, int stage, int group) {
    Map<String, Parameter> known = new LinkedHashMap<>();
    for (var source : sets.stages()) {
      for (Parameter parameter : source.parameters()) {
        if (parameter.group() == group) {
          known.putIfAbsent(parameter.name(), parameter);
        }
      }
    }
    return inOrder(sets, division, stage, known.keySet()).stream().map(known::get).toList();
  }

  /** Those of a stage among {@code names}: of its tied layers, then of its layers in order. */
  private static List<String> inOrder(
      StageSets sets, PipelineLayers.Division division, int stage, Set<String> names) {
    List<String> own = new ArrayList<>();
    for (String key : division.tied().get(stage)) {
      names.stream()
          .filter(name -> sets.layer(name) < 0 && sets.key(name).equals(key))
          .forEach(own::add);
    }
    division
        .stageOf()
        .forEach(
            (layer, of) -> {
              if (of == stage) {
                names.stream().filter(name -> sets.layer(name) == layer).forEach(own::add);
              }
            });
    return own;
  }

  /** The names of all buffers of these files. */
  static Set<String> buffersOf(List<ModelPart> files) {
    Set<String> names = new LinkedHashSet<>();
    for (ModelPart part : files) {
      new ModelStates(part.model().orElseThrow().root())
          .root()
          .findPresent("buffer_names")
          .ifPresent(list -> list.items().stream().map(PickledValue::asString).forEach(names::add));
    }
    return names;
  }
}

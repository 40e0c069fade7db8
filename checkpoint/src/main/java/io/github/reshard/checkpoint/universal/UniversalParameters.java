package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.Conversions;
import io.github.reshard.checkpoint.deepspeed.LayerFiles;
import io.github.reshard.checkpoint.deepspeed.TensorChange;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.parallel.TensorRules;
import io.github.reshard.checkpoint.parallel.UniversalKeys;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.zero12.StageSets;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * The parameters of all model-parallel ranks, each once and whole: what tensor-parallel ranks have
 * of one is joined, what stages of a pipeline have in common is there once.
 *
 * @param set all of them
 * @param firstParts by name, which part of the state is the first that has it
 * @param rules by name, how tensor-parallel ranks share it, where the files say anything
 */
record UniversalParameters(
    ParameterSet set, Map<String, Integer> firstParts, Map<String, TensorRules> rules) {
  private static final String INSTEAD = "Leave --outputFormat out.";

  /**
   * @throws RefusedException if ranks have the same parameters, and it is not known how they belong
   *     together
   */
  static UniversalParameters of(TrainingState state) throws IOException {
    List<ModelPart> parts = state.parts();
    int ranks = tensorRanks(state);
    Map<String, Integer> firstParts = new HashMap<>();
    Map<String, TensorRules> rules = new HashMap<>();
    List<ParameterSet> stages = new ArrayList<>();
    for (int first = 0; first < parts.size(); first += ranks) {
      List<ModelPart> ofStage = parts.subList(first, first + ranks);
      ParameterSet set = state.trained(ofStage.get(0));
      if (ranks > 1 || saysHow(ofStage.get(0))) {
        TensorChange.Joined joined = TensorChange.join(state, ofStage, INSTEAD);
        set = joined.set();
        set.parameters().forEach(p -> rules.putIfAbsent(p.name(), joined.rules()));
      }
      for (Parameter parameter : set.parameters()) {
        firstParts.putIfAbsent(parameter.name(), first);
      }
      stages.add(set);
    }
    ParameterSet all =
        stages.size() == 1 ? stages.get(0) : new StageSets(state.checkpoint(), stages).joined(0);
    return new UniversalParameters(
        parts.size() == 1 ? all : all.named(ParamId.ALL_RANKS), firstParts, rules);
  }

  private static boolean saysHow(ModelPart part) {
    return part.model().orElseThrow().root().findPresent(TensorChange.INFO).isPresent();
  }

  /** How many tensor-parallel ranks share the parameters; they are neighbours. */
  private static int tensorRanks(TrainingState state) {
    int parts = state.parts().size();
    int ranks = LayerFiles.tensorRanks(state);
    if (!Conversions.hasLayers(state)) {
      List<String> first = names(state, 0);
      ranks =
          state.parts().stream().allMatch(part -> names(state, part.mpRank()).equals(first))
              ? parts
              : 1;
    }
    if (parts % ranks != 0) {
      throw new RefusedException(
          state.checkpoint(),
          "its layers are of %d tensor-parallel ranks, and there are files of %d model-parallel ranks. %s"
              .formatted(ranks, parts, INSTEAD));
    }
    return ranks;
  }

  private static List<String> names(TrainingState state, int part) {
    return state.trained(state.parts().get(part)).parameters().stream()
        .map(Parameter::name)
        .toList();
  }

  /** What is said of a parameter beside its elements. */
  UniversalKeys keys(String parameter) {
    return Optional.ofNullable(rules.get(parameter))
        .map(of -> of.universalKeys(parameter))
        .orElse(UniversalKeys.ROWS);
  }
}

package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.TensorChange;
import io.github.reshard.checkpoint.parallel.Division;
import io.github.reshard.checkpoint.parallel.Recut;
import io.github.reshard.checkpoint.parallel.TensorDegree;
import io.github.reshard.checkpoint.parallel.TensorRules;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * What model-parallel ranks have of each parameter whose folder holds all of it.
 *
 * @param byRank for each of them by name; parameters that are not there are whole
 */
record TensorShares(List<Map<String, Share>> byRank) {

  /**
   * A parameter of tensor-parallel ranks.
   *
   * @param shape of all of it
   * @param locals what each rank has
   * @param own the rank
   */
  record Share(List<Long> shape, List<LocalTensor> locals, int own) {}

  /**
   * What the model files say.
   *
   * @param models one for each model-parallel rank, in order
   */
  static TensorShares of(CheckpointFiles files, List<ModelStates> models) {
    int layers =
        files.layers().stream()
            .mapToInt(layer -> 1 + CheckpointFiles.LayerName.parse(layer.name()).tensorRank())
            .max()
            .orElse(0);
    List<List<Parameter>> parameters =
        models.stream().map(m -> m.flatGroups().stream().flatMap(List::stream).toList()).toList();
    List<String> first = names(parameters.get(0));
    boolean alike = parameters.stream().allMatch(of -> names(of).equals(first));
    int ranks = layers > 0 ? layers : alike ? models.size() : 1;
    if (models.size() % ranks != 0) {
      throw new RefusedException(
          files.directory() + "/" + files.tag(),
          "its layers are of %d tensor-parallel ranks, and there are model files of %d model-parallel ranks."
              .formatted(ranks, models.size()));
    }
    List<Map<String, Share>> byRank = new ArrayList<>();
    for (int begin = 0; begin < models.size(); begin += ranks) {
      byRank.addAll(
          ofStage(models.subList(begin, begin + ranks), parameters.subList(begin, begin + ranks)));
    }
    return new TensorShares(byRank);
  }

  private static List<String> names(List<Parameter> parameters) {
    return parameters.stream().map(Parameter::name).toList();
  }

  private static List<Map<String, Share>> ofStage(
      List<ModelStates> models, List<List<Parameter>> parameters) {
    int ranks = models.size();
    List<Map<String, Share>> shares = new ArrayList<>();
    models.forEach(model -> shares.add(new HashMap<>()));
    PickledValue root = models.get(0).root();
    Optional<PickledValue> info = root.findPresent(TensorChange.INFO).filter(PickledValue::isDict);
    if (info.isEmpty()) {
      if (ranks > 1) {
        throw root.refused(
            "tensor-parallel ranks share its parameters, and nothing says how (%s)."
                .formatted(TensorChange.INFO));
      }
      return shares;
    }
    TensorRules rules = TensorRules.ofCheckpoint(info.get());
    boolean autoTp =
        rules.isAutoTp()
            || DsConfig.ifStored(root).flatMap(DsConfig::tensorParallelSize).isPresent();
    TensorDegree degree =
        TensorDegree.joining(
            info.get().where(),
            rules,
            autoTp ? new Division.AutoTp(Division.Heads.UNKNOWN, 1) : new Division.Even());
    for (int p = 0; p < parameters.get(0).size(); p++) {
      int index = p;
      String name = parameters.get(0).get(p).name();
      Recut recut =
          degree.recut(name, parameters.stream().map(of -> of.get(index).shape()).toList());
      for (int rank = 0; rank < ranks; rank++) {
        shares.get(rank).put(name, new Share(recut.shape(), recut.source(), rank));
      }
    }
    return shares;
  }
}

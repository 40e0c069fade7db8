package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.Conversions;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.FrozenSets;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ModuleParameters;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.io.IOException;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Files of ZeRO-3 made of what files of another stage say. */
final class NewShardedCheckpoint {
  private static final int STAGE = 3;

  private final PlanDraft draft;
  private final Target target;
  private final Map<Integer, Integer> models = new HashMap<>();
  private final Map<Integer, Integer> frozenModels = new HashMap<>();

  NewShardedCheckpoint(PlanDraft draft, Target target) {
    this.draft = draft;
    this.target = target;
  }

  /** Adds the files of a model-parallel rank. */
  void add(ModelPart part) throws IOException {
    ReadFile modelFile = part.model().orElseThrow();
    ModelStates model = new ModelStates(modelFile.root());
    requireConvertible(part, model);
    Conversions.requireShared(draft, part, target, this::refused);
    ParameterSet set = draft.state().trained(part);
    int share = set.shareOf(part.mpRank());
    long subGroupSize = DsConfig.of(model.root()).subGroupSize();
    int trained =
        models.computeIfAbsent(part.trained().get(0), index -> addModel(set, subGroupSize));
    ShardedLayout layout = ShardedLayout.of(draft.models().get(trained).target().ofHolder(share));
    int frozen = frozenOf(part);
    ModuleParameters named = ModuleParameters.of(model);
    List<String> dsIds =
        ParameterIds.labels(
            model.module().keySet().stream().filter(named::contains).toList(),
            named.others().keySet(),
            layout);
    TorchTarget.Pickled ofOthers = null;
    for (int rank = 0; rank < draft.worldSize(); rank++) {
      TorchRecipe recipe =
          Conversions.form(
              new NewShardedModelRecipe(modelFile.source(), rank, trained, share, frozen),
              trained,
              frozen,
              part);
      TorchTarget.Pickled content = rank > 1 ? ofOthers : draft.pickled(recipe, modelFile);
      ofOthers = content;
      draft.addRankFile(
          draft.inTag(
              "zero_pp_rank_%d_mp_rank_%02d_model_states.pt".formatted(rank, part.mpRank())),
          recipe,
          content,
          modelFile,
          (part.frozen().isPresent() ? share : 0) * draft.worldSize() + rank,
          frozen);
      ReadFile optimizer = part.optimizers().get(part.templateOf(rank));
      TorchRecipe ofOptimizer =
          Conversions.form(
              new NewShardedOptimizerRecipe(
                  optimizer.source(), trained, share, dsIds, part.reading()),
              trained,
              frozen,
              part);
      String name = draft.state().sources().get(optimizer.source()).stat().name();
      draft.addRankFile(
          draft.inTag(CheckpointFiles.nameOf(name, rank, part.mpRank())),
          ofOptimizer,
          draft.pickled(ofOptimizer, optimizer),
          optimizer,
          share * draft.worldSize() + rank,
          trained);
    }
  }

  /** Registers trained parameters, whose weights ZeRO-3 has nowhere. */
  private int addModel(ParameterSet set, long subGroupSize) {
    int index =
        draft.addModel(
            set,
            set.target(
                set.shares().stream()
                    .map(
                        share ->
                            new ShardedLayout(draft.worldSize(), set.local(share), subGroupSize))
                    .toList()));
    draft.dropWeights(index);
    return index;
  }

  private RefusedException refused(String problem) {
    return Conversions.refused(draft.state(), STAGE, problem);
  }

  private void requireConvertible(ModelPart part, ModelStates model) {
    if (!model.hasShapes()) {
      throw refused(
          "it is a mixture of experts that DeepSpeed before 0.19.3 saved, without its configuration"
              + " in the model file");
    }
    DsConfig config = DsConfig.of(model.root());
    if (Conversions.hasLayers(draft.state())) {
      throw refused("pipeline modules do not work with ZeRO-2 and 3 in DeepSpeed");
    }
    OptimizerFile optimizer = new OptimizerFile(part.optimizers().get(0).root());
    draft.note("stage %d → stage %d".formatted(optimizer.stage(), STAGE));
    boolean experts =
        part.trained().size() > 1 || draft.state().trained(part).expertRank() != ParamId.NO_EXPERT;
    if (experts || Conversions.hasExperts(draft.state(), model)) {
      throw refused("native mixtures of experts do not work with ZeRO-3 in DeepSpeed");
    }
    requirePlainZero3(config, !ModuleParameters.of(model).frozen().isEmpty());
  }

  /** What only takes effect at stage 3 may be in the configuration already. */
  private static void requirePlainZero3(DsConfig config, boolean frozen) {
    config
        .zero("mics_shard_size")
        .filter(size -> size.asWhole().orElse(0L) > 0)
        .ifPresent(
            size -> {
              throw size.refused("MiCS is not supported; remove it to turn it to stage 3.");
            });
    for (String offload : List.of("offload_optimizer", "offload_param")) {
      config
          .zero(offload, "device")
          .filter(device -> device.asString().equals(DsConfig.NVME))
          .ifPresent(
              device -> {
                throw device.refused(
                    "at stage 3 DeepSpeed would look for files on NVMe, which are not written.");
              });
    }
    config
        .zero("zero_quantized_nontrainable_weights")
        .filter(PickledValue::isTrue)
        .filter(set -> frozen)
        .ifPresent(
            set -> {
              throw set.refused(
                  "at stage 3 frozen parameters would be quantized, which is not done.");
            });
  }

  /** The frozen parameters, which are whole in the model file or were joined. */
  private int frozenOf(ModelPart part) {
    if (part.frozen().isPresent()) {
      return frozenModels.computeIfAbsent(
          part.frozen().getAsInt(),
          index -> addFrozen(draft, draft.state().parameters().get(index)));
    }
    return FrozenSets.ofModule(draft.state(), part)
        .map(set -> addFrozen(draft, set))
        .orElse(ShardedModelRecipe.NONE_FROZEN);
  }

  /** Registers frozen parameters, of which data-parallel ranks have pieces. */
  static int addFrozen(PlanDraft draft, ParameterSet set) {
    return draft.addModel(
        set,
        set.target(
            set.shares().stream()
                .map(share -> new ShardedLayout(draft.worldSize(), set.local(share), 0))
                .toList()));
  }
}

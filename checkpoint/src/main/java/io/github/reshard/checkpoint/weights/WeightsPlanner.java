package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.copy.WeightCast;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.SavedModule;
import io.github.reshard.checkpoint.deepspeed.SavedModule.Kind;
import io.github.reshard.checkpoint.deepspeed.SavedModule.SavedTensor;
import io.github.reshard.checkpoint.format.ExportRequest;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.openstate.NativeValues;
import io.github.reshard.checkpoint.openstate.OpenFormat;
import io.github.reshard.checkpoint.parallel.Recut;
import io.github.reshard.checkpoint.plan.Conversion;
import io.github.reshard.checkpoint.plan.NewFile;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.safetensors.SafetensorsLayout;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.weights.PlannedTensor.Origin;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Pattern;

/** Plans the consolidated weights of a checkpoint, whatever its stage and number of ranks. */
final class WeightsPlanner {
  /** What {@code from_pretrained} reads beside the weights. */
  private static final Pattern BESIDE =
      Pattern.compile(
          "(?:config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map"
              + "|added_tokens|vocab|chat_template|preprocessor_config|processor_config"
              + "|video_preprocessor_config|image_processor_config|feature_extractor)\\.json"
              + "|merges\\.txt|vocab\\.txt|chat_template\\.jinja|.*\\.(?:model|tiktoken)");

  private final ReshardPlan source;
  private final CheckpointFiles files;
  private final List<SavedModule> modules;
  private final Optional<TensorJoin> join;
  private final ExportRequest request;
  private final Optional<List<Map<String, Object>>> paramGroups;
  private final Map<String, PlannedTensor> tensors = new LinkedHashMap<>();
  private final Map<String, String> tied = new LinkedHashMap<>();
  private final List<String> notes = new ArrayList<>();

  private WeightsPlanner(
      ReshardPlan source,
      CheckpointFiles files,
      List<SavedModule> modules,
      Optional<TensorJoin> join,
      ExportRequest request,
      Optional<List<Map<String, Object>>> paramGroups) {
    this.source = source;
    this.files = files;
    this.modules = modules;
    this.join = join;
    this.request = request;
    this.paramGroups = paramGroups;
  }

  /**
   * Plans the export of {@code files}.
   *
   * @param state of the same files, read for the ranks that saved them
   * @throws RefusedException if the checkpoint is not whole, contradicts itself, or holds what is
   *     not understood, or if it has not what was asked for
   */
  static ReshardPlan plan(
      TrainingState state, CheckpointFiles files, Target target, ExportRequest request)
      throws IOException {
    SourceStore store = state.store();
    ReshardPlan source = PlanDraft.ofNothing(state, target);
    Optional<List<Map<String, Object>>> paramGroups =
        request.optimizer() ? Optional.of(OptimizerOptions.of(state)) : Optional.empty();
    List<SavedModule> modules = SavedModule.of(source, store, files);
    Optional<TensorJoin> join = TensorJoin.of(source, store, files);
    ReshardPlan whole = join.isPresent() ? join.get().joined() : source;
    return new WeightsPlanner(whole, files, modules, join, request, paramGroups).plan(store);
  }

  private ReshardPlan plan(SourceStore store) throws IOException {
    if (request.optimizer()) {
      OpenStateDraft.requireSupported(source, request);
    }
    Map<String, Parameter> parameters = parameters();
    Map<String, List<PlannedTensor>> byName = new LinkedHashMap<>();
    Map<String, Kind> kinds = new HashMap<>();
    for (SavedModule module : modules) {
      tied.putAll(module.tied());
      for (SavedTensor saved : module.tensors()) {
        byName
            .computeIfAbsent(saved.name(), name -> new ArrayList<>())
            .add(planned(saved, module, parameters));
        kinds.put(saved.name(), saved.kind());
      }
    }
    byName.forEach((name, parts) -> tensors.put(name, one(name, kinds.get(name), parts)));
    for (Parameter parameter : List.copyOf(parameters.values())) {
      if (!tensors.containsKey(parameter.name())) {
        tensors.put(parameter.name(), ofParameter(parameter, null));
      }
    }
    if (request.only().isPresent()) {
      tensors.keySet().removeIf(name -> !WeightNames.matches(request.only().get(), name));
    }
    if (tensors.isEmpty()) {
      throw new RefusedException(
          source.checkpoint(),
          request.only().isPresent()
              ? "no name of a tensor is as --only=%s says.".formatted(request.only().get())
              : "holds no tensor.");
    }
    boolean adapter = WeightNames.areAdapter(tensors.keySet());
    List<FileStat> beside =
        files.beside().stream()
            .filter(file -> BESIDE.matcher(file.path()).matches())
            .map(CheckpointFiles.Carried::stat)
            .toList();
    ModelConfig.read(store, beside).requireTied(source.checkpoint(), tensors.keySet(), tied);
    return written(store, adapter, beside, parameters);
  }

  private ReshardPlan written(
      SourceStore store, boolean adapter, List<FileStat> beside, Map<String, Parameter> parameters)
      throws IOException {
    Map<String, String> names =
        WeightNames.of(
            source.checkpoint(), List.copyOf(tensors.keySet()), request.stripPrefix(), adapter);
    Map<String, PlannedTensor> byNewName = new HashMap<>();
    List<SafetensorsLayout.Tensor> laidOut = new ArrayList<>();
    names.forEach(
        (name, to) -> {
          PlannedTensor tensor = tensors.get(name);
          if (!SafetensorsLayout.supports(tensor.to())) {
            throw new RefusedException(
                source.checkpoint(),
                "%s is of type %s, for which safetensors has no name. Leave it out with --only."
                    .formatted(name, tensor.to().torchName()));
          }
          byNewName.put(to, tensor);
          laidOut.add(new SafetensorsLayout.Tensor(to, tensor.to(), tensor.shape()));
        });
    TensorPlan plan = new TensorPlan(source);
    String stem = adapter ? "adapter_model" : "model";
    // PEFT reads one file.
    WeightShards shards =
        WeightShards.of(stem, laidOut, adapter ? Long.MAX_VALUE : request.shardBytes());
    add(plan, stem, shards, byNewName);
    beside.forEach(plan::copyFile);
    if (request.optimizer()) {
      OpenStateDraft state = new OpenStateDraft(source, tensors, names, paramGroups.get());
      parameters.forEach((name, p) -> state.add(name, p.model(), p.index()));
      add(
          plan,
          OpenFormat.OPTIMIZER_STEM,
          WeightShards.of(OpenFormat.OPTIMIZER_STEM, state.laidOut(), request.shardBytes()),
          state.tensors());
      addSmall(
          plan,
          OpenFormat.JSON,
          state.json(
              NativeValues.json(
                  store,
                  files,
                  source,
                  modules,
                  join.map(TensorJoin::recuts).orElse(Map.of()),
                  names)));
    }
    addNotes(adapter, beside);
    return plan.plan(notes, request.partBytes());
  }

  private static void addSmall(TensorPlan plan, String path, byte[] content) {
    plan.addFile(path, content.length, new NewFile(content), content.length);
  }

  private static void add(
      TensorPlan plan, String stem, WeightShards shards, Map<String, PlannedTensor> byName) {
    shards
        .files()
        .forEach(
            (path, inFile) -> {
              SafetensorsRecipe recipe =
                  new SafetensorsRecipe(inFile, SafetensorsLayout.OF_PYTORCH);
              SafetensorsLayout layout = recipe.layout();
              int file = plan.addFile(path, layout.bytes(), recipe, layout.header().length);
              for (SafetensorsLayout.Tensor tensor : inFile) {
                plan.add(
                    byName.get(tensor.name()),
                    new Address(file, 0, layout.offsets().get(tensor.name())));
              }
            });
    if (shards.needIndex()) {
      addSmall(plan, stem + ".safetensors.index.json", shards.index());
    }
  }

  private void addNotes(boolean adapter, List<FileStat> beside) {
    Map<String, Integer> casts = new LinkedHashMap<>();
    for (PlannedTensor tensor : tensors.values()) {
      if (tensor.from() != tensor.to()) {
        casts.merge(
            "%s cast from %s to %s"
                .formatted(
                    tensor.to().bytes() < tensor.from().bytes()
                        ? "rounded to nearest even,"
                        : "exactly",
                    tensor.from().torchName(),
                    tensor.to().torchName()),
            1,
            Integer::sum);
      }
    }
    casts.forEach((how, count) -> notes.add("%d tensors are %s".formatted(count, how)));
    if (adapter) {
      notes.add(
          "these are an adapter's weights, with the names that PEFT gives them; the base model's"
              + " are not in the output");
    }
    tied.forEach(
        (other, kept) ->
            notes.add("%s is tied to %s and not written again".formatted(other, kept)));
    String config = adapter ? "adapter_config.json" : "config.json";
    if (beside.stream().noneMatch(stat -> stat.name().equals(config))) {
      notes.add(
          "no %s lies beside the tag; from_pretrained needs one in the output".formatted(config));
    }
  }

  /**
   * A parameter that ranks partition.
   *
   * @param name in the module
   * @param model index into the source's models
   * @param index its index in that model
   */
  private record Parameter(String name, int model, int index) {}

  /** All parameters that ranks partition, by name. */
  private Map<String, Parameter> parameters() {
    Map<String, Parameter> parameters = new LinkedHashMap<>();
    for (int m = 0; m < source.models().size(); m++) {
      PartitionedModel model = source.models().get(m);
      for (int p = 0; p < model.parameters().size(); p++) {
        String name = SavedModule.nameOf(model, p);
        Parameter other = parameters.put(name, new Parameter(name, m, p));
        if (other != null) {
          throw twice(name);
        }
      }
    }
    return parameters;
  }

  private RefusedException twice(String name) {
    return new RefusedException(
        source.checkpoint(),
        "more than one model-parallel rank holds %s, and it is not known how the parts belong together. Make one rank of them with --targetTensorParallelSize=1 --targetPipelineParallelSize=1, and export that."
            .formatted(name));
  }

  /** What the parts of all model-parallel ranks that have a tensor are together. */
  private PlannedTensor one(String name, Kind kind, List<PlannedTensor> parts) {
    PlannedTensor first = parts.get(0);
    if (parts.size() == 1) {
      return first;
    }
    if (join.isEmpty() || parts.size() < modules.size()) {
      throw twice(name);
    }
    if (!(first.origin() instanceof Origin.Stored)) {
      return first; // of a model that is joined
    }
    List<Address> addresses = new ArrayList<>();
    for (PlannedTensor part : parts) {
      if (!(part.origin() instanceof Origin.Stored at) || part.from() != first.from()) {
        throw twice(name);
      }
      addresses.add(at.address());
    }
    List<List<Long>> shapes = parts.stream().map(PlannedTensor::shape).toList();
    if (kind != Kind.FROZEN && shapes.stream().distinct().count() == 1) {
      // No rule is about buffers; where they are alike, which is proven, each rank has all of it.
      LocalTensor whole = LocalTensor.whole(first.shape());
      return new PlannedTensor(
          name,
          new Origin.Parts(addresses, Collections.nCopies(parts.size(), whole)),
          first.from(),
          first.to(),
          first.shape());
    }
    Recut recut = join.get().recut(name, shapes);
    return new PlannedTensor(
        name, new Origin.Parts(addresses, recut.source()), first.from(), first.to(), recut.shape());
  }

  private PlannedTensor planned(
      SavedTensor saved, SavedModule module, Map<String, Parameter> parameters) {
    if (saved.address() == null) {
      Parameter parameter = parameters.get(saved.name());
      if (parameter == null) {
        throw new IllegalStateException(saved.where() + " is in no model");
      }
      return ofParameter(parameter, saved.dtype());
    }
    boolean isParameter = saved.kind() == Kind.FROZEN;
    return new PlannedTensor(
        saved.name(),
        new Origin.Stored(module.mpRank(), saved.address()),
        saved.dtype(),
        isParameter ? asked(saved.dtype()) : saved.dtype(),
        saved.shape());
  }

  /**
   * @param inModule the type that the module has it in, or null if that is not known
   */
  private PlannedTensor ofParameter(Parameter parameter, DType inModule) {
    PartitionedModel model = source.models().get(parameter.model());
    List<Long> shape = model.parameters().get(parameter.index()).shape();
    boolean frozen = model.isFrozen();
    String state = frozen ? States.FROZEN : States.MASTER;
    DType held = model.statesOf(parameter.index()).get(state);
    ModuleWeight weight = model.weights().get(parameter.index());
    DType asSaved = weight != null ? weight.dtype() : frozen ? held : inModule;
    if (request.dtype().isEmpty() && asSaved == null) {
      throw new RefusedException(
          source.checkpoint(),
          "no file says in which type the module has %s. Say it: --dtype=bf16, fp16 or fp32."
              .formatted(parameter.name()));
    }
    DType to = frozen ? asked(held) : request.dtype().orElse(asSaved);
    boolean saved = weight != null && weight.source() != null && weight.dtype() == to;
    if (request.optimizer() && !frozen && held != to) {
      // The masters go beside the optimizer's states: the weight is the module's, or a second copy.
      requireCast(parameter.name(), held, to);
      return new PlannedTensor(
          parameter.name(),
          new Origin.State(parameter.model(), parameter.index(), States.MODULE),
          saved ? to : held,
          to,
          shape);
    }
    boolean whole =
        model.source().holders() == 1
            && model.source().localTensor(0, parameter.index()).equals(LocalTensor.whole(shape));
    if (saved && !whole && !request.optimizer()) {
      return new PlannedTensor(
          parameter.name(),
          new Origin.State(parameter.model(), parameter.index(), States.MODULE),
          to,
          to,
          shape);
    }
    if (saved && !request.optimizer()) {
      // Nothing has to be known of partitions where the module's own weight is what is wanted.
      return new PlannedTensor(
          parameter.name(), new Origin.Stored(model.mpRank(), weight.source()), to, to, shape);
    }
    requireCast(parameter.name(), held, to);
    return new PlannedTensor(
        parameter.name(),
        new Origin.State(parameter.model(), parameter.index(), state),
        held,
        to,
        shape);
  }

  private void requireCast(String name, DType held, DType to) {
    if (held != to && !WeightCast.supports(new Conversion(held, to))) {
      throw new RefusedException(
          source.checkpoint(),
          "%s is held as %s, which cannot be cast to %s."
              .formatted(name, held.torchName(), to.torchName()));
    }
  }

  /** The type that a parameter is written as which has no masters: quantised ones stay. */
  private DType asked(DType saved) {
    return request
        .dtype()
        .filter(to -> WeightCast.supports(new Conversion(saved, to)))
        .orElse(saved);
  }
}

package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TorchTarget;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.Conversion;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.template.OnlyUsed;
import io.github.reshard.checkpoint.template.TemplateCarried;
import io.github.reshard.checkpoint.template.TemplateRecipe;
import io.github.reshard.checkpoint.template.TemplateTensors;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Stream;

/** The reshard of a template with every tensor and number of training from elsewhere. */
final class FilledTemplate {
  private final DcpCheckpoint dcp;
  private final ReshardPlan template;
  private final DcpKeys keys;
  private final DcpSources sources;

  private FilledTemplate(
      DcpCheckpoint dcp, ReshardPlan template, DcpKeys keys, DcpSources sources) {
    this.dcp = dcp;
    this.template = template;
    this.keys = keys;
    this.sources = sources;
  }

  /**
   * The plan of it.
   *
   * @param state the template's
   * @param files of the template
   * @param template its reshard to the ranks and the stage that will load
   * @throws RefusedException if template and checkpoint are not of one model and optimizer, or hold
   *     what is not understood
   */
  static ReshardPlan plan(
      DcpCheckpoint dcp, TrainingState state, CheckpointFiles files, ReshardPlan template)
      throws IOException {
    DcpDraft.requireElementwise(template);
    DcpKeys keys = DcpKeys.of(dcp, template);
    TemplateRun run = TemplateRun.read(state, files, template, dcp, keys);
    DcpSources sources =
        DcpSources.read(state.store(), dcp, needed(template, keys, run), template.sources().size());
    run.requireTiedAlike(keys, sources);
    return new FilledTemplate(dcp, template, keys, sources).plan(state.store(), run);
  }

  private List<Evidence> evidence(SourceStore store) throws IOException {
    Set<String> states = new HashSet<>();
    for (PartitionedModel model : template.models()) {
      for (int p = 0; p < model.parameters().size(); p++) {
        String name = model.parameters().get(p).name();
        model.statesOf(p).keySet().forEach(state -> states.add(keys.state(name, state)));
      }
    }
    List<Evidence> evidence = new ArrayList<>();
    evidence.add(
        Evidence.ofAll(
            "the chunks of each tensor hold every element once",
            DcpMetadata.FILE_NAME,
            dcp.directories().size()));
    evidence.add(DcpReader.identity(dcp));
    sources.refuseCopies(store, states).ifPresent(evidence::add);
    return evidence;
  }

  private static Set<String> needed(ReshardPlan template, DcpKeys keys, TemplateRun run) {
    Set<String> needed = new LinkedHashSet<>();
    for (PartitionedModel model : template.models()) {
      for (int p = 0; p < model.parameters().size(); p++) {
        Parameter parameter = model.parameters().get(p);
        if (!model.isFrozen()) {
          requireSameStates(keys, model, p, run.scalars().get(parameter.group()).keySet());
        }
        for (Map.Entry<String, DType> state : model.statesOf(p).entrySet()) {
          String key = keys.weightOrState(parameter.name(), state.getKey());
          DcpTypes.requireAlike(keys, key, state.getValue(), parameter.shape(), !model.isFrozen());
          needed.add(key);
        }
        if (!model.isFrozen()) {
          run.scalars().get(parameter.group()).keySet().stream()
              .map(name -> keys.state(parameter.name(), name))
              .filter(key -> keys.tensor(key).isPresent())
              .forEach(needed::add);
        }
      }
    }
    needed.addAll(run.wholeKeys());
    return needed;
  }

  private static void requireSameStates(
      DcpKeys keys, PartitionedModel model, int p, Set<String> scalars) {
    String name = model.parameters().get(p).name();
    Set<String> further = new HashSet<>(keys.states(name));
    further.removeAll(model.statesOf(p).keySet());
    further.removeAll(scalars);
    if (!further.isEmpty()) {
      throw new RefusedException(
          keys.where(),
          "the optimizer keeps %s of %s, and that of the template does not: its states are %s. Make the template with the same optimizer."
              .formatted(further, name, model.statesOf(p).keySet()));
    }
  }

  private ReshardPlan plan(SourceStore store, TemplateRun run) throws IOException {
    TemplateCarried carried = replaced(run);
    TemplateRecipe.Template common = new TemplateRecipe.Template(template.models(), run.values());
    Map<Integer, TorchFile> files = run.files();
    List<TargetFile> targets = new ArrayList<>();
    for (TargetFile target : template.targets()) {
      targets.add(target(target, common, files, run.tag()));
    }
    List<PartitionedModel> models = new ArrayList<>();
    for (PartitionedModel model : template.models()) {
      models.add(resourced(model, targets));
    }
    List<SliceCopy> slices = new ArrayList<>();
    for (SliceCopy slice : carried.of(template.carried())) {
      slices.add(slice.to(moved(slice.target(), targets)));
    }
    List<SourceFile> allSources = new ArrayList<>(template.sources());
    allSources.addAll(sources.files());
    int ranks = models.stream().mapToInt(m -> m.source().worldSize()).max().orElse(1);
    return OnlyUsed.of(
        new ReshardPlan(
            dcp.path(),
            run.tag(),
            ranks,
            template.targetWorldSize(),
            template.parallelism(),
            allSources,
            targets,
            models,
            slices,
            template.padding(),
            evidence(store),
            Stream.concat(run.notes().stream(), DcpTypes.notes(models).stream()).toList(),
            template.partBytes()),
        template.sources().size());
  }

  /** What the template's files carry over, from where the distributed checkpoint has it. */
  private TemplateCarried replaced(TemplateRun run) {
    TemplateCarried carried = new TemplateCarried();
    Set<String> derived = new HashSet<>();
    for (PartitionedModel model : template.models()) {
      for (int p = 0; p < model.parameters().size(); p++) {
        ModuleWeight weight = model.weights().get(p);
        if (weight != null && !weight.targets().isEmpty()) {
          derived.add(model.parameters().get(p).name());
        }
      }
    }
    for (TemplateTensors.Located tensor : run.tensors()) {
      if (tensor.isOfClient()) {
        replace(tensor, tensor.name(), carried);
      } else if (!tensor.isOfModule()) {
        carried.replace(
            tensor.address(),
            tensor.bytes(),
            sources.address(run.scalarKey(tensor.group(), tensor.name()), 0),
            null);
      } else if (!derived.contains(tensor.name())) {
        replace(tensor, keys.model(tensor.name()), carried);
      }
    }
    return carried;
  }

  private void replace(TemplateTensors.Located tensor, String key, TemplateCarried carried) {
    DcpMetadata.Tensor from = keys.requireTensor(key);
    Conversion conversion =
        from.dtype() == tensor.dtype() ? null : new Conversion(from.dtype(), tensor.dtype());
    int width = tensor.dtype().bytes();
    for (int c = 0; c < from.chunks().size(); c++) {
      Chunk chunk = from.chunks().get(c);
      long start = run(key, from.shape(), chunk);
      carried.replace(
          tensor.address().plus(start * width),
          chunk.elements() * width,
          sources.address(key, c),
          conversion);
    }
  }

  /** The first element of a chunk that is a run of elements of the full tensor. */
  private long run(String key, List<Long> shape, Chunk chunk) {
    return DcpLayout.start(shape, new Box(chunk.offsets(), chunk.sizes()))
        .orElseThrow(
            () ->
                new RefusedException(
                    dcp.path(),
                    "'%s', which is not trained, is cut along another dimension than the first. That is read of trained parameters only."
                        .formatted(key)));
  }

  /** The file with other values in its pickle, and so with its storages elsewhere. */
  private TargetFile target(
      TargetFile target, TemplateRecipe.Template common, Map<Integer, TorchFile> files, String tag)
      throws IOException {
    String path =
        target.path().startsWith(template.tag() + "/")
            ? tag + target.path().substring(template.tag().length())
            : target.path();
    if (!(target.recipe() instanceof TorchRecipe recipe)) {
      return new TargetFile(path, target.bytes(), target.recipe(), target.entries());
    }
    TemplateRecipe edited = new TemplateRecipe(recipe, common);
    TorchTarget.Planned planned =
        TorchTarget.plan(
            files.get(recipe.template()),
            target.name(),
            edited,
            template.models(),
            template.sourceWorldSize(),
            template.targetWorldSize());
    List<TargetFile.Entry> entries = new ArrayList<>();
    for (TargetFile.Entry entry : target.entries()) {
      entries.add(
          new TargetFile.Entry(
              entry.key(), planned.layout().payloadOffset(entry.key()), entry.bytes()));
    }
    return new TargetFile(path, planned.layout().totalBytes(), edited, entries);
  }

  private Address moved(Address at, List<TargetFile> targets) {
    if (at == null || at.entry() < 0) {
      return at;
    }
    long was = template.targets().get(at.file()).entries().get(at.entry()).offset();
    long is = targets.get(at.file()).entries().get(at.entry()).offset();
    return at.plus(is - was);
  }

  /** The parameters of a model of the template, from the chunks of the distributed checkpoint. */
  private PartitionedModel resourced(PartitionedModel model, List<TargetFile> targets) {
    Map<Partition, Address> partitions = new HashMap<>();
    DcpLayout source = sources.layout(model, keys, partitions);
    Map<Partition, Address> to = new HashMap<>();
    model.targetPartitions().forEach((of, at) -> to.put(of, moved(at, targets)));
    List<ModuleWeight> weights = new ArrayList<>();
    for (ModuleWeight weight : model.weights()) {
      weights.add(
          weight == null || weight.targets().isEmpty()
              ? null
              : new ModuleWeight(
                  weight.dtype(),
                  List.of(),
                  weight.targets().stream().map(at -> moved(at, targets)).toList()));
    }
    DcpTypes types = DcpTypes.of(model, keys);
    return new PartitionedModel(
        model.mpRank(),
        model.expertRank(),
        source,
        model.target(),
        types.states(),
        partitions,
        to,
        weights,
        model.whole(),
        types.casts());
  }
}

package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.SavedModule;
import io.github.reshard.checkpoint.deepspeed.SavedOptimizer;
import io.github.reshard.checkpoint.deepspeed.Scalar;
import io.github.reshard.checkpoint.format.OptimizerValues;
import io.github.reshard.checkpoint.format.TorchRecipe;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.template.TemplateTensors;
import io.github.reshard.checkpoint.template.TemplateValues;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;

/**
 * What the run that saved a template has beside its partitions, and what takes its place.
 *
 * @param tag the output's
 * @param files the template's torch files, by their index in its plan
 * @param tensors what those carry over and training changes: the module's tensors and steps
 * @param tied further names of parameters, and which one each names
 * @param values what takes the place of values in pickles
 * @param scalars for each param group what its parameters have once
 * @param wholeKeys the keys of tensors of the module, and of those that the user saved
 * @param notes what the user should know
 */
record TemplateRun(
    String tag,
    Map<Integer, TorchFile> files,
    List<TemplateTensors.Located> tensors,
    Map<String, String> tied,
    TemplateValues values,
    List<Map<String, TemplateGroups.FoundScalar>> scalars,
    Set<String> wholeKeys,
    List<String> notes) {
  private static final String STEP = "step";
  private static final String GLOBAL_STEPS = "global_steps";
  private static final String GLOBAL_SAMPLES = "global_samples";
  private static final String SKIPPED = "skipped_steps";
  private static final String SCHEDULER = "lr_scheduler";

  /** Reads it, and finds what takes its place. */
  static TemplateRun read(
      TrainingState state, CheckpointFiles files, ReshardPlan plan, DcpCheckpoint dcp, DcpKeys keys)
      throws IOException {
    return new Reading(state, files, plan, dcp, keys).read();
  }

  /** The key of a scalar of a group whose files hold one. */
  String scalarKey(int group, String name) {
    return scalars.get(group).get(name).key();
  }

  /**
   * Two names of one parameter are two keys, and nothing but their bytes shows that they are one.
   *
   * @throws RefusedException if they are not alike
   */
  void requireTiedAlike(DcpKeys keys, DcpSources sources) {
    tied.forEach(
        (name, of) -> {
          String key = keys.model(name);
          String other = keys.model(of);
          Optional<DcpMetadata.Tensor> tensor = keys.tensor(key);
          if (tensor.isEmpty() || !wholeKeys.contains(key)) {
            return;
          }
          DcpMetadata.Tensor first = keys.requireTensor(other);
          boolean same = first.chunks().size() == tensor.get().chunks().size();
          for (int c = 0; same && c < first.chunks().size(); c++) {
            Chunk a = first.chunks().get(c);
            Chunk b = tensor.get().chunks().get(c);
            same =
                a.offsets().equals(b.offsets())
                    && a.sizes().equals(b.sizes())
                    && sources.crc32(other, c) == sources.crc32(key, c);
          }
          if (!same) {
            throw new RefusedException(
                keys.where(),
                "'%s' and '%s' are one parameter in the template, and differ here: the weights were not tied in the run that saved them."
                    .formatted(key, other));
          }
        });
  }

  /** One reading. */
  private static final class Reading {
    private final TrainingState state;
    private final SourceStore store;
    private final OptimizerValues.Reading reading;
    private final TemplateValues values = new TemplateValues();
    private final CheckpointFiles template;
    private final ReshardPlan plan;
    private final DcpCheckpoint dcp;
    private final DcpKeys keys;
    private final Map<Integer, TorchFile> files = new TreeMap<>();
    private final List<String> notes = new ArrayList<>();
    private final Map<String, PyObject> objects;

    Reading(
        TrainingState state,
        CheckpointFiles template,
        ReshardPlan plan,
        DcpCheckpoint dcp,
        DcpKeys keys)
        throws IOException {
      this.state = state;
      this.store = state.store();
      this.reading = state.parts().get(0).reading();
      this.template = template;
      this.plan = plan;
      this.dcp = dcp;
      this.keys = keys;
      this.objects = dcp.values(store, keys.valueKeys());
    }

    TemplateRun read() throws IOException {
      for (TargetFile target : plan.targets()) {
        if (target.recipe() instanceof TorchRecipe recipe
            && !files.containsKey(recipe.template())) {
          files.put(recipe.template(), read(plan.sources().get(recipe.template())));
        }
      }
      List<TemplateTensors.Located> tensors = new ArrayList<>();
      for (Map.Entry<Integer, TorchFile> file : files.entrySet()) {
        tensors.addAll(TemplateTensors.of(reading, plan, file.getKey(), file.getValue()));
      }
      Map<String, String> tied = new LinkedHashMap<>();
      for (SavedModule module : SavedModule.of(plan, store, template)) {
        tied.putAll(module.tied());
      }
      List<Map<String, TemplateGroups.FoundScalar>> scalars = new ArrayList<>();
      OptionalDouble steps = OptionalDouble.empty();
      List<SavedOptimizer.Group> groups = SavedOptimizer.of(state).groups();
      for (TemplateGroups.Found group :
          new TemplateGroups(keys, objects, dcp).find(plan, groups, store)) {
        OptionalDouble step = group.step();
        Map<String, PyObject> plain = new LinkedHashMap<>();
        group
            .scalars()
            .forEach(
                (name, scalar) -> {
                  if (scalar.value() instanceof Scalar.OfValue value && !name.equals(STEP)) {
                    plain.put(name, value.value());
                  }
                });
        values.addGroup(
            group.options(),
            step.isPresent() ? Optional.of((long) step.getAsDouble()) : Optional.empty(),
            plain);
        scalars.add(group.scalars());
        steps = step.isPresent() && step.getAsDouble() > steps.orElse(-1) ? step : steps;
      }
      Set<String> needed = wholeKeys(tensors, tied);
      long made = ofModel(steps);
      for (Map.Entry<Integer, TorchFile> file : files.entrySet()) {
        for (TemplateTensors.Located tensor :
            ClientTensors.of(plan, file.getKey(), file.getValue(), keys)) {
          ClientTensors.requireApart(tensor, tensors);
          tensors.add(tensor);
          needed.add(tensor.name());
        }
      }
      return new TemplateRun(
          "global_step" + made, files, tensors, tied, values, scalars, needed, notes);
    }

    private TorchFile read(SourceFile file) throws IOException {
      try (RangedFile open = store.open(file.stat())) {
        return TorchFile.read(open);
      }
    }

    private Set<String> wholeKeys(List<TemplateTensors.Located> tensors, Map<String, String> tied) {
      Set<String> known = new HashSet<>(tied.keySet());
      Set<String> needed = new LinkedHashSet<>();
      for (PartitionedModel model : plan.models()) {
        model.parameters().forEach(parameter -> known.add(parameter.name()));
      }
      for (TemplateTensors.Located tensor : tensors) {
        if (tensor.isOfModule()) {
          known.add(tensor.name());
          DcpMetadata.Tensor found = keys.requireTensor(keys.model(tensor.name()));
          if (!found.shape().equals(tensor.shape())) {
            throw new RefusedException(
                keys.where(),
                "'%s' is of shape %s, in the template of %s. They are of different models."
                    .formatted(keys.model(tensor.name()), found.shape(), tensor.shape()));
          }
          needed.add(keys.model(tensor.name()));
        }
      }
      requireNotTrained(tied.keySet());
      Set<String> unknown = new TreeSet<>(keys.modelNames());
      unknown.removeAll(known);
      if (!keys.model("").isEmpty() && !unknown.isEmpty()) {
        throw new RefusedException(
            keys.where(),
            "the model has %s, which the template does not have. They are of different models."
                .formatted(unknown.stream().limit(5).toList()));
      }
      for (String name : tied.keySet()) {
        if (keys.tensor(keys.model(name)).isPresent()) {
          needed.add(keys.model(name));
        }
      }
      return needed;
    }

    /** Adds counters, scheduler and client state; how many steps the run has made. */
    private long ofModel(OptionalDouble steps) {
      TorchFile file =
          files.values().stream()
              .filter(f -> TemplateValues.isModelFile(root(f)))
              .findFirst()
              .orElseThrow();
      PickledValue root = root(file);
      long skipped = counter(SKIPPED).orElse(0L);
      long made =
          counter(GLOBAL_STEPS)
              .orElseGet(
                  () -> {
                    if (steps.isEmpty()) {
                      throw new RefusedException(
                          keys.where(),
                          "says nowhere how many steps were made: the optimizer does not count"
                              + " them, and there is no object 'global_steps'. Save it with one.");
                    }
                    return (long) steps.getAsDouble() + skipped;
                  });
      Set<String> kept = new TreeSet<>();
      Set<String> known = new HashSet<>();
      for (ClientState.Leaf leaf : ClientState.of(root)) {
        known.add(leaf.key());
        replace(leaf, kept);
      }
      noteUnknown(known);
      long batch =
          root.findPresent("ds_config")
              .filter(PickledValue::isDict)
              .flatMap(config -> config.findPresent("train_batch_size"))
              .flatMap(PickledValue::asWhole)
              .orElse(0L);
      put(root, GLOBAL_STEPS, made);
      put(root, SKIPPED, skipped);
      if (counter(GLOBAL_SAMPLES).isEmpty()) {
        put(root, GLOBAL_SAMPLES, made * batch);
      }
      if (!kept.isEmpty()) {
        notes.add(
            "the template's own, because the distributed checkpoint has none: "
                + String.join(", ", kept));
      }
      notes.add(
          "the loss scaler and the configuration are those of the template %s"
              .formatted(plan.checkpoint()));
      return made;
    }

    /** What the optimizer has of parameters that the template does not train would be lost. */
    private void requireNotTrained(Set<String> tied) {
      Set<String> trained = new HashSet<>();
      for (PartitionedModel model : plan.models()) {
        if (!model.isFrozen()) {
          model.parameters().forEach(parameter -> trained.add(parameter.name()));
        }
      }
      for (String name : keys.trainedNames()) {
        if (!trained.contains(name)) {
          throw new RefusedException(
              keys.where(),
              "the optimizer has states of %s, which the template %s. Make the template with the same parameters trained."
                  .formatted(
                      name, tied.contains(name) ? "knows by another name only" : "does not train"));
        }
      }
    }

    private static PickledValue root(TorchFile file) {
      return PickledValue.root(file.path(), file.parse().root());
    }

    private void put(PickledValue root, String name, long number) {
      if (root.find(name).isPresent()) {
        values.putOfModel(List.of(name), PyInt.of(number));
      }
    }

    private Optional<Long> counter(String name) {
      return objects.get(name) instanceof PyInt number && number.value().bitLength() < Long.SIZE
          ? Optional.of(number.value().longValue())
          : Optional.empty();
    }

    private void replace(ClientState.Leaf leaf, Set<String> kept) {
      String key = leaf.key();
      PyObject saved = objects.get(key);
      boolean isTensor = leaf.tensor().isPresent();
      if (isTensor ? saved != null : keys.tensor(key).isPresent()) {
        throw new RefusedException(
            keys.where(),
            "'%s' is %s, and in the template's client state it is %s. Save the two with the same client state."
                .formatted(
                    key, isTensor ? "no tensor" : "a tensor", isTensor ? "a tensor" : "none"));
      }
      if (isTensor && keys.tensor(key).isPresent()) {
        return;
      }
      if (saved != null && !StorageKeys.references(saved).isEmpty()) {
        throw new RefusedException(
            keys.where(),
            "'%s' is an object that holds tensors, which are taken over from dicts and lists only. Save the distributed checkpoint without it, or with the tensors in a dict."
                .formatted(key));
      }
      if (saved != null && !leaf.holdsTensors()) {
        values.putOfModel(leaf.path().stream().map(Reading::text).toList(), saved);
      } else if (leaf.first().equals(SCHEDULER) && leaf.value().node() != PyNone.NONE) {
        throw new RefusedException(
            keys.where(),
            "has no object '%s', and the template's run has a scheduler with it: its state would be that after one step. Save the distributed checkpoint with the scheduler's state_dict() as 'lr_scheduler', or make the template without a scheduler."
                .formatted(key));
      } else if (!Set.of(GLOBAL_STEPS, GLOBAL_SAMPLES, SKIPPED).contains(key)
          && leaf.value().node() != PyNone.NONE) {
        kept.add(key);
      }
    }

    private static String text(DcpMetadata.Step step) {
      return step instanceof DcpMetadata.Step.Index index
          ? Long.toString(index.position())
          : ((DcpMetadata.Step.Key) step).name();
    }

    /** Says what the template's run does not save, and so would not look for. */
    private void noteUnknown(Set<String> known) {
      Set<String> unknown = new TreeSet<>();
      for (String key : objects.keySet()) {
        if (!known.contains(key)
            && !keys.isOfOptimizer(key)
            && !Set.of(GLOBAL_STEPS, GLOBAL_SAMPLES, SKIPPED).contains(key)) {
          unknown.add(key);
        }
      }
      if (!unknown.isEmpty()) {
        notes.add(
            "the template has no place for, so not taken over: " + String.join(", ", unknown));
      }
    }
  }
}

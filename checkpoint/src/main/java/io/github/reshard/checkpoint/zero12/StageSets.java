package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.LayerFiles;
import io.github.reshard.checkpoint.deepspeed.MissingWeights;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.parallel.PipelineLayers;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.PipelineLayout;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.SortedSet;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The parameters of all stages of a pipeline as one set. A stage has its tied layers first and then
 * its layers in order, which its parameters' names tell: {@code tied_modules.KEY.name} and {@code
 * LAYER.name} (DeepSpeed 0.19.8, runtime/pipe/module.py, {@code _build}).
 *
 * @param where the checkpoint, for messages
 * @param stages the set of each stage
 */
public record StageSets(String where, List<ParameterSet> stages) {
  private static final Pattern LAYER = Pattern.compile("(\\d{1,6})\\..+", Pattern.DOTALL);
  private static final Pattern TIED =
      Pattern.compile("tied_modules\\.([^.]+)\\..+", Pattern.DOTALL);

  public StageSets {
    stages = List.copyOf(stages);
  }

  /** The layer that a parameter or buffer is of, or -1 if it is of a tied one. */
  int layer(String name) {
    Matcher layer = LAYER.matcher(name);
    if (layer.matches()) {
      return Integer.parseInt(layer.group(1));
    }
    if (TIED.matcher(name).matches()) {
      return -1;
    }
    throw new RefusedException(
        where,
        "'%s' is neither a parameter of a numbered layer nor of a tied one, so this is no pipeline of DeepSpeed's PipelineModule. Leave --targetPipelineParallelSize out."
            .formatted(name));
  }

  /** The key of the tied layer that a parameter or buffer is of. */
  String key(String name) {
    Matcher tied = TIED.matcher(name);
    if (!tied.matches()) {
      throw new IllegalArgumentException(name);
    }
    return tied.group(1);
  }

  /**
   * All stages as one set; what is tied is there once for each stage that has it.
   *
   * @throws RefusedException if the stages do not belong together
   */
  public ParameterSet joined(int tensorRank) {
    ParameterSet first = stages.get(0);
    Map<String, Integer> byName = new LinkedHashMap<>();
    List<Parameter> parameters = new ArrayList<>();
    List<List<Integer>> numbers = new ArrayList<>();
    Map<Partition, Address> partitions = new HashMap<>();
    List<ModuleWeight> weights = new ArrayList<>();
    int firstRank = 0;
    int firstHolder = 0;
    int holders = stages.stream().mapToInt(set -> set.layout().holders()).sum();
    for (int s = 0; s < stages.size(); s++) {
      ParameterSet set = stages.get(s);
      requireLike(s, set, first);
      List<Integer> own = new ArrayList<>();
      for (int p = 0; p < set.parameters().size(); p++) {
        Parameter parameter = set.parameters().get(p);
        Integer known = byName.putIfAbsent(parameter.name(), parameters.size());
        if (known == null) {
          parameters.add(parameter);
          weights.add(ofStage(set.weights().get(p), firstHolder, holders));
        } else if (layer(parameter.name()) >= 0 || !parameters.get(known).equals(parameter)) {
          throw new RefusedException(
              where,
              "%s is on more than one stage, with shape %s and with shape %s. The files do not belong together."
                  .formatted(parameter.name(), parameters.get(known).shape(), parameter.shape()));
        }
        own.add(byName.get(parameter.name()));
      }
      numbers.add(own);
      for (Map.Entry<Partition, Address> at : set.partitions().entrySet()) {
        Partition of = at.getKey();
        partitions.put(
            new Partition(firstRank + of.rank(), of.bucket(), of.state()), at.getValue());
      }
      firstRank += set.layout().worldSize();
      firstHolder += set.layout().holders();
    }
    return new ParameterSet(
        tensorRank,
        ParamId.NO_EXPERT,
        new PipelineLayout(
            parameters, stages.stream().map(ParameterSet::layout).toList(), numbers, groups()),
        first.states(),
        partitions,
        weights,
        first.whole(),
        List.of(ParameterSet.Share.whole(tensorRank, parameters)));
  }

  /** The param groups, which are those of every stage. */
  List<Integer> groups() {
    ZeroLayout layout = stages.get(0).layout();
    List<Integer> groups = new ArrayList<>();
    for (int bucket = 0; bucket < layout.buckets(); bucket++) {
      groups.add(layout.groupOf(bucket));
    }
    return groups;
  }

  private void requireLike(int stage, ParameterSet set, ParameterSet first) {
    if (!set.states().equals(first.states())) {
      throw new RefusedException(
          where,
          "stage %d has the optimizer states %s, stage 0 has %s. Stages whose param groups differ are not divided anew."
              .formatted(stage, set.states(), first.states()));
    }
    if (!set.whole().isEmpty()) {
      throw new RefusedException(
          where,
          "is trained with Muon, whose momentum was not seen to move to another stage. Leave"
              + " --targetPipelineParallelSize out.");
    }
  }

  /** The weight lies once in a layer's file; which stage it is compared with is the first one. */
  private static ModuleWeight ofStage(ModuleWeight weight, int firstHolder, int holders) {
    if (weight == null) {
      return null;
    }
    Address[] sources = new Address[holders];
    for (int h = 0; h < weight.sources().size(); h++) {
      sources[firstHolder + h] = weight.sources().get(h);
    }
    return new ModuleWeight(weight.dtype(), Arrays.asList(sources), List.of());
  }

  /** What tensor-parallel rank {@code share} of the target has of these parameters. */
  List<LocalTensor> locals(List<Parameter> parameters, int share) {
    Map<String, LocalTensor> known = new HashMap<>();
    for (ParameterSet set : stages) {
      for (int p = 0; p < set.parameters().size(); p++) {
        known.put(set.parameters().get(p).name(), set.shares().get(share).tensors().get(p));
      }
    }
    return parameters.stream().map(parameter -> known.get(parameter.name())).toList();
  }

  /**
   * Checks that the source's own parameters are in the order that the target's will be in.
   *
   * @throws RefusedException if not
   */
  void requireOrdered() {
    for (ParameterSet stage : stages) {
      int group = -1;
      int layer = -1;
      for (Parameter parameter : stage.parameters()) {
        int own = layer(parameter.name());
        boolean next = parameter.group() == group && own >= layer;
        if (!next && parameter.group() == group) {
          throw new RefusedException(
              where,
              "param group %d has %s behind parameters of later layers, so that what its order is on other stages is not known."
                  .formatted(group, parameter.name()));
        }
        group = parameter.group();
        layer = own;
      }
    }
  }

  /** How many elements of a parameter a rank of its stage has. */
  @FunctionalInterface
  interface Elements {
    long of(ParameterSet set, int parameter);
  }

  /** What the checkpoint shows of the layers. */
  PipelineLayers layers(TrainingState state, int tensorRank, Elements count) {
    SortedMap<Integer, Long> elements = new TreeMap<>();
    Map<Integer, Integer> stageOf = new HashMap<>();
    Map<String, SortedSet<Integer>> owners = new TreeMap<>();
    Map<String, Long> elementsOfTied = new HashMap<>();
    Map<String, Map<String, Parameter>> ofTied = new TreeMap<>();
    for (int s = 0; s < stages.size(); s++) {
      ParameterSet set = stages.get(s);
      for (int p = 0; p < set.parameters().size(); p++) {
        Parameter parameter = set.parameters().get(p);
        int layer = layer(parameter.name());
        if (layer >= 0) {
          elements.merge(layer, count.of(set, p), Long::sum);
          stageOf.put(layer, s);
        } else {
          String key = key(parameter.name());
          owners.computeIfAbsent(key, k -> new TreeSet<>()).add(s);
          if (owners.get(key).first() == s) {
            elementsOfTied.merge(key, count.of(set, p), Long::sum);
          }
          ofTied
              .computeIfAbsent(key, k -> new LinkedHashMap<>())
              .put(MissingWeights.nameInTiedLayer(parameter.name()).orElseThrow(), parameter);
        }
      }
    }
    SortedMap<Integer, ReadFile> files = LayerFiles.of(state, tensorRank);
    SortedMap<String, PipelineLayers.Tied> tied = new TreeMap<>();
    ofTied.forEach(
        (key, parameters) -> {
          SortedSet<Integer> found = new TreeSet<>();
          files.forEach(
              (layer, file) -> {
                if (!elements.containsKey(layer) && holds(file, parameters)) {
                  found.add(layer);
                }
              });
          tied.put(key, new PipelineLayers.Tied(elementsOfTied.get(key), owners.get(key), found));
        });
    return new PipelineLayers(
        stages.size(), elements, stageOf, new TreeSet<>(files.keySet()), tied);
  }

  private static boolean holds(ReadFile file, Map<String, Parameter> parameters) {
    PickledValue root = file.root();
    return parameters.entrySet().stream()
        .allMatch(
            one ->
                root.findPresent(one.getKey())
                    .flatMap(PickledValue::asTensor)
                    .filter(tensor -> one.getValue().hasShape(tensor.shape()))
                    .isPresent());
  }
}

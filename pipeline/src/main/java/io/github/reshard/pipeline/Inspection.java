package io.github.reshard.pipeline;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.transforms.Manifest;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * What a checkpoint is, from its metadata alone.
 *
 * @param name what it is called: the directory, and the tag if it has one
 * @param files its files
 * @param facts what it says of itself
 * @param plan a plan of its reshard, or null if that is refused
 * @param refusal why it cannot be resharded, or empty
 * @param withTarget whether the plan's target is one that was asked for
 */
public record Inspection(
    String name,
    CheckpointFiles files,
    CheckpointFacts facts,
    ReshardPlan plan,
    String refusal,
    boolean withTarget) {
  private static final ObjectMapper JSON =
      new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);

  /**
   * Looks at {@code --input}.
   *
   * @throws RefusedException if there is no checkpoint
   */
  public static Inspection of(CommandOptions options) {
    try {
      Source source = Source.ofInput(options);
      CheckpointFacts facts = source.facts();
      boolean withTarget = options.getTargetWorldSize() != null || options.getGpus() != null;
      int ranks = withTarget ? Job.ranks(source, options) : source.dataParallelRanks();
      try {
        ReshardPlan plan =
            source.plan(ranks, ZeroStage.AS_SAVED, Job.degrees(options), options.getPartBytes());
        return new Inspection(source.name(), source.files(), facts, plan, "", withTarget);
      } catch (RefusedException e) {
        return new Inspection(source.name(), source.files(), facts, null, e.getMessage(), false);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** All files that belong to it. */
  public List<FileStat> allFiles() {
    List<FileStat> all = new ArrayList<>(files.models().values());
    files.rankModels().values().forEach(ranks -> all.addAll(ranks.values()));
    files.optimizers().values().forEach(ranks -> all.addAll(ranks.values()));
    all.addAll(files.layers());
    all.addAll(files.experts());
    Stream.concat(files.others().stream(), files.beside().stream())
        .forEach(other -> all.add(other.stat()));
    return all;
  }

  /** Model-parallel ranks. */
  public int modelParallelRanks() {
    return files.optimizers().size();
  }

  /** The GPUs that saved it and those of the target, if they are more than data-parallel ranks. */
  public String grids() {
    if (plan == null || !withTarget) {
      return facts.parallelism().isMore()
          ? facts.parallelism().grid(facts.dataParallelRanks())
          : "";
    }
    return plan.grids();
  }

  /** Optimizer states of all param groups with their types, such as {@code exp_avg float32}. */
  public List<String> states() {
    TreeSet<String> states = new TreeSet<>();
    if (plan != null) {
      for (PartitionedModel model : plan.models()) {
        model
            .states()
            .forEach(
                group ->
                    group.forEach((state, dtype) -> states.add(state + " " + dtype.torchName())));
      }
    }
    return List.copyOf(states);
  }

  /** All parameters, over all model-parallel ranks. */
  public long parameters() {
    return plan == null
        ? 0
        : plan.models().stream().mapToLong(model -> model.parameters().size()).sum();
  }

  /** Elements of all parameters. */
  public long elements() {
    return plan == null
        ? 0
        : plan.models().stream()
            .flatMap(model -> model.parameters().stream())
            .mapToLong(Parameter::elements)
            .sum();
  }

  /**
   * A param group.
   *
   * @param name of which model-parallel rank and experts it is
   * @param parameters how many it has
   * @param elements of them all
   * @param settings its hyper-parameters
   */
  public record Group(String name, int parameters, long elements, String settings) {}

  /** The param groups. */
  public List<Group> groups() {
    List<Group> groups = new ArrayList<>();
    if (plan == null) {
      return groups;
    }
    for (PartitionedModel model : plan.models()) {
      Map<Integer, List<Parameter>> byGroup =
          model.parameters().stream()
              .collect(Collectors.groupingBy(Parameter::group, TreeMap::new, Collectors.toList()));
      byGroup.forEach(
          (group, parameters) ->
              groups.add(
                  new Group(
                      "group " + group + of(model),
                      parameters.size(),
                      parameters.stream().mapToLong(Parameter::elements).sum(),
                      settings(group))));
    }
    return groups;
  }

  private String of(PartitionedModel model) {
    String text = modelParallelRanks() > 1 ? " of mp rank " + model.mpRank() : "";
    return model.expertRank() == ParamId.NO_EXPERT ? text : text + " of the experts";
  }

  private String settings(int group) {
    List<String> settings = new ArrayList<>();
    for (String key : List.of("lr", "weight_decay", "betas", "momentum", "eps")) {
      String value = facts.optimizerValues().get("param_groups[" + group + "]." + key);
      if (value != null) {
        settings.add(key + " " + value);
      }
    }
    return String.join(", ", settings);
  }

  /** For machines. */
  public String json() {
    try {
      return JSON.writeValueAsString(tree());
    } catch (JsonProcessingException e) {
      throw new UncheckedIOException(e);
    }
  }

  private ObjectNode tree() {
    ObjectNode root = JSON.createObjectNode();
    root.put("reshard", Manifest.toolVersion());
    root.put("directory", files.directory());
    root.put("tag", files.tag());
    root.put("zeroStage", facts.stage());
    root.put("wrapper", facts.wrapper());
    root.put("optimizer", facts.optimizer());
    root.put("dtype", facts.dtype());
    root.put("deepspeed", facts.deepspeed());
    root.put("dataParallelRanks", facts.dataParallelRanks());
    root.put("modelParallelRanks", modelParallelRanks());
    root.put("pipelineDegree", facts.parallelism().pipelineDegree());
    root.put("tensorDegree", facts.parallelism().tensorDegree());
    root.put("sequenceDegree", facts.parallelism().sequenceDegree());
    root.put("grids", grids());
    root.put("files", allFiles().size());
    root.put("bytes", allFiles().stream().mapToLong(FileStat::bytes).sum());
    root.put("buffers", facts.buffers());
    root.put("frozen", facts.frozen());
    ArrayNode oddities = root.putArray("oddities");
    facts.oddities().forEach(oddities::add);
    root.put("refusal", refusal);
    ObjectNode model = root.putObject("modelValues");
    facts.modelValues().forEach(model::put);
    ObjectNode optimizer = root.putObject("optimizerValues");
    facts.optimizerValues().forEach(optimizer::put);
    ArrayNode states = root.putArray("states");
    states().forEach(states::add);
    root.put("elements", elements());
    ArrayNode models = root.putArray("models");
    if (!grids().isEmpty()) {
      ArrayNode drawn = root.putArray("gpus");
      addGrid(facts.parallelism(), facts.dataParallelRanks(), drawn.addObject());
      if (withTarget) {
        addGrid(plan.parallelism().target(), plan.targetWorldSize(), drawn.addObject());
      }
    }
    if (plan != null) {
      root.put("targetWorldSize", plan.targetWorldSize());
      plan.models().forEach(partitioned -> addModel(partitioned, models.addObject()));
    }
    return root;
  }

  private static void addGrid(ModelParallelism parallelism, int ranks, ObjectNode node) {
    node.put("text", parallelism.grid(ranks));
    node.put("pipeline", Math.max(1, parallelism.pipelineDegree()));
    node.put("tensor", parallelism.modelRanks() / Math.max(1, parallelism.pipelineDegree()));
    node.put("sequence", parallelism.sequenceDegree());
    node.put("ranks", ranks);
  }

  private void addModel(PartitionedModel model, ObjectNode node) {
    node.put("mpRank", model.mpRank());
    node.put("experts", model.isOfExperts());
    ArrayNode parameters = node.putArray("parameters");
    for (int p = 0; p < model.parameters().size(); p++) {
      Parameter parameter = model.parameters().get(p);
      ObjectNode entry = parameters.addObject().put("name", parameter.name());
      ArrayNode shape = entry.putArray("shape");
      parameter.shape().forEach(shape::add);
      entry.put("group", parameter.group());
      entry.put("elements", parameter.elements());
    }
    addLayout(model.source(), node.putArray("before"));
    if (withTarget) {
      addLayout(model.target(), node.putArray("after"));
    }
  }

  /** For each rank and partition {@code [parameter, start in the partition, elements]}. */
  private static void addLayout(ZeroLayout layout, ArrayNode ranks) {
    for (int rank = 0; rank < layout.worldSize(); rank++) {
      ObjectNode node = ranks.addObject().put("rank", rank);
      ArrayNode buckets = node.putArray("partitions");
      for (int bucket = 0; bucket < layout.buckets(); bucket++) {
        if (layout.holds(rank, bucket)) {
          ObjectNode partition = buckets.addObject();
          partition.put("index", bucket);
          partition.put("group", layout.groupOf(bucket));
          partition.put("elements", layout.elementsIn(rank, bucket));
          ArrayNode runs = partition.putArray("runs");
          for (Extent extent : layout.extentsIn(rank, bucket)) {
            runs.addArray()
                .add(extent.parameter())
                .add(extent.bucketStart())
                .add(extent.elements());
          }
        }
      }
    }
  }

  /** One page that needs nothing else. */
  public String html() {
    try (InputStream in = Inspection.class.getResourceAsStream("inspection.html")) {
      String page = new String(in.readAllBytes(), StandardCharsets.UTF_8);
      ObjectMapper compact = new ObjectMapper();
      // A name may hold what ends a script element.
      String data = compact.writeValueAsString(tree()).replace("<", "\\u003c");
      return page.replace("/*DATA*/null", data);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}

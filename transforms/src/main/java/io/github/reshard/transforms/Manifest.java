package io.github.reshard.transforms;

import com.fasterxml.jackson.core.util.DefaultIndenter;
import com.fasterxml.jackson.core.util.DefaultPrettyPrinter;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;

/**
 * {@code TAG/reshard-manifest.json}: what a tag was made from, what it holds and what was proven of
 * it. docs/manifest.md has the schema.
 *
 * @param digests that of each full tensor by {@code name}, model-parallel rank, expert-parallel
 *     rank and state, see {@link #key}
 */
public record Manifest(Map<String, Digest> digests) {
  /**
   * The digest of a tensor.
   *
   * @param crc32 its CRC-32
   * @param bytes how many it has: model-parallel ranks may call parts of it by the same name
   */
  public record Digest(int crc32, long bytes) {}

  /** A tensor of 0 elements has no entry in its file. */
  private static final int CRC_OF_NOTHING = 0;

  /** The version of the schema that is written; a reader refuses higher ones. */
  static final int VERSION = 1;

  /** How the digests are made. */
  static final String ALGORITHM = "crc32 of little-endian elements in C order";

  private static final ObjectMapper JSON = new ObjectMapper();

  /** The name of a tensor in {@link #digests}. */
  public static String key(ParamId parameter, String state) {
    return "%s|%d|%s".formatted(parameter.name(), parameter.mpRank(), state);
  }

  /** Where it lies, relative to the output directory; an output without a tag holds it itself. */
  static String path(String tag) {
    return tag.isEmpty() ? CheckpointFiles.MANIFEST : tag + "/" + CheckpointFiles.MANIFEST;
  }

  /**
   * The manifest of a finished job.
   *
   * @param digests the CRC-32 of every full tensor that was moved, in the order of the plan
   * @param disagreements for each parameter whose masters were trusted, the first element that
   *     shows it
   */
  static byte[] json(
      ReshardPlan plan,
      JobConfig config,
      List<Integer> digests,
      Map<ParamId, Long> disagreements,
      double seconds) {
    ObjectNode root = JSON.createObjectNode();
    root.put("manifestVersion", VERSION);
    root.putObject("tool").put("name", "reshard").put("version", toolVersion());
    root.put("tag", plan.tag());
    if (!config.run().isEmpty()) {
      root.put("run", config.run());
    }
    root.putObject("config")
        .put("targetWorldSize", plan.targetWorldSize())
        .put("trustMasters", config.trustMasters())
        .put("partBytes", plan.partBytes());
    addSource(plan, root.putObject("source"));
    addOutput(plan, config, root.putObject("output"));
    addProofs(plan, disagreements, root.putObject("proofs"));
    ArrayNode notes = root.putArray("notes");
    plan.notes().forEach(notes::add);
    root.put("digestAlgorithm", ALGORITHM);
    addParameters(plan, digests, root.putArray("parameters"));
    root.put("seconds", Math.round(seconds * 1000) / 1000.0);
    try {
      DefaultPrettyPrinter printer = new DefaultPrettyPrinter();
      printer.indentObjectsWith(new DefaultIndenter("  ", "\n"));
      printer.indentArraysWith(new DefaultIndenter("  ", "\n"));
      return (JSON.writer(printer).writeValueAsString(root) + "\n")
          .getBytes(StandardCharsets.UTF_8);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** What a manifest says that its reshard was called; empty if it does not. */
  static String run(byte[] manifest) {
    try {
      return JSON.readTree(manifest).path("run").asText();
    } catch (IOException e) {
      return ""; // not as this program writes it
    }
  }

  private static void addSource(ReshardPlan plan, ObjectNode source) {
    source.put("checkpoint", plan.checkpoint());
    source.put("dataParallelRanks", plan.sourceWorldSize());
    source.put("bytes", plan.sources().stream().mapToLong(file -> file.stat().bytes()).sum());
    ArrayNode files = source.putArray("files");
    for (SourceFile file : plan.sources()) {
      ObjectNode node = files.addObject();
      node.put("path", file.stat().path());
      node.put("bytes", file.stat().bytes());
      node.put("version", file.stat().version());
      if (!file.entries().isEmpty()) {
        node.put("entries", file.entries().size());
        node.put("crcs", file.hasCrcs());
        node.put("entriesSha256", sha256(file));
      }
    }
  }

  /** Of the lines {@code NAME BYTES CRC32} of a file's entries, in the order of the file. */
  private static String sha256(SourceFile file) {
    try {
      MessageDigest digest = MessageDigest.getInstance("SHA-256");
      for (TorchFile.Entry entry : file.entries()) {
        String line = "%s %d %08x\n".formatted(entry.name(), entry.bytes(), entry.crc32());
        digest.update(line.getBytes(StandardCharsets.UTF_8));
      }
      return HexFormat.of().formatHex(digest.digest());
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }

  private static void addOutput(ReshardPlan plan, JobConfig config, ObjectNode output) {
    output.put("form", config.form());
    output.put("dataParallelRanks", plan.targetWorldSize());
    output.put("bytes", plan.targetBytes());
    ArrayNode files = output.putArray("files");
    for (TargetFile file : plan.targets()) {
      files.addObject().put("path", file.path()).put("bytes", file.bytes());
    }
  }

  private static void addProofs(
      ReshardPlan plan, Map<ParamId, Long> disagreements, ObjectNode proofs) {
    Proofs proven = Proofs.of(plan);
    proofs
        .putObject("coverage")
        .put("parameters", proven.parameters())
        .put("elements", proven.elements());
    ObjectNode bytes = proofs.putObject("bytes").put("entries", proven.entries());
    proven.filesWithoutCrcs().forEach(bytes.putArray("filesWithoutCrcs")::add);
    proven.filesWithoutEntries().forEach(bytes.putArray("filesWithoutChecksums")::add);
    if (proven.copies() > 0) {
      proofs.putObject("copies").put("equal", proven.copies());
    }
    ObjectNode weights =
        proofs.putObject("weights").put("parameters", proven.weights() - disagreements.size());
    proven.withoutWeights().forEach(weights.putArray("withoutWeights")::add);
    ArrayNode files = proofs.putArray("files");
    for (Evidence evidence : proven.evidence()) {
      ObjectNode node = files.addObject();
      node.put("claim", evidence.claim()).put("by", evidence.by()).put("files", evidence.files());
      evidence.without().forEach(node.putArray("without")::add);
      if (!evidence.whyNot().isEmpty()) {
        node.put("whyNot", evidence.whyNot());
      }
    }
    ArrayNode disagreed = weights.putArray("disagreed");
    disagreements.forEach(
        (parameter, element) ->
            addIdentity(parameter, disagreed.addObject()).put("element", element));
  }

  private static ObjectNode addIdentity(ParamId id, ObjectNode node) {
    return node.put("name", id.name()).put("mpRank", id.mpRank());
  }

  private static void addParameters(ReshardPlan plan, List<Integer> digests, ArrayNode parameters) {
    Iterator<Integer> next = digests.iterator();
    for (PartitionedModel model : plan.models()) {
      for (int p = 0; p < model.parameters().size(); p++) {
        ParamId id = model.id(plan.checkpoint(), p);
        Parameter parameter = model.parameters().get(p);
        ObjectNode node = addIdentity(id, parameters.addObject());
        ArrayNode shape = node.putArray("shape");
        parameter.shape().forEach(shape::add);
        ObjectNode states = node.putObject("states");
        ModuleWeight weight = model.weights().get(p);
        Map<String, DType> types = Repartition.movedStates(model, p);
        for (Map.Entry<String, DType> state : types.entrySet()) {
          addState(states, state.getKey(), state.getValue(), next.next());
        }
        if (weight != null && !types.containsKey(States.MODULE) && !weight.isDropped()) {
          addCarriedWeight(plan, weight, parameter, states);
        }
      }
    }
  }

  /** A weight that is carried over with its file, if its entry's CRC is its own. */
  private static void addCarriedWeight(
      ReshardPlan plan, ModuleWeight weight, Parameter parameter, ObjectNode states) {
    if (parameter.elements() == 0) {
      addState(states, States.MODULE, weight.dtype(), CRC_OF_NOTHING);
      return;
    }
    SourceFile file = plan.sources().get(weight.source().file());
    if (file.entries().isEmpty()) {
      return; // safetensors have no CRC
    }
    TorchFile.Entry entry = file.entries().get(weight.source().entry());
    if (file.hasCrcs()
        && entry.payloadOffset() == weight.source().offset()
        && entry.bytes() == parameter.elements() * weight.dtype().bytes()) {
      addState(states, States.MODULE, weight.dtype(), entry.crc32());
    }
  }

  private static void addState(ObjectNode states, String state, DType dtype, int crc32) {
    states.putObject(state).put("dtype", dtype.torchName()).put("crc32", "%08x".formatted(crc32));
  }

  /**
   * Reads a manifest.
   *
   * @param where its path, for messages
   * @throws RefusedException if it is none, or of a later version
   */
  public static Manifest read(byte[] json, String where) {
    JsonNode root;
    try {
      root = JSON.readTree(json);
    } catch (IOException e) {
      throw new RefusedException(where, "no JSON: " + e.getMessage().lines().findFirst().get(), e);
    }
    int version = root.path("manifestVersion").asInt(0);
    if (version < 1 || version > VERSION) {
      throw new RefusedException(
          where,
          "expected manifestVersion 1 to %d, found %s. Delete it, or use the version of Reshard that wrote it."
              .formatted(VERSION, root.path("manifestVersion")));
    }
    Map<String, Digest> digests = new TreeMap<>();
    for (JsonNode parameter : root.path("parameters")) {
      ParamId id =
          new ParamId("", parameter.path("mpRank").asInt(), parameter.path("name").asText());
      long[] elements = {1};
      parameter.path("shape").forEach(size -> elements[0] *= size.asLong());
      parameter
          .path("states")
          .fields()
          .forEachRemaining(
              state ->
                  digests.put(
                      key(id, state.getKey()),
                      new Digest(
                          crc32(state.getValue().path("crc32"), where),
                          elements[0]
                              * DType.ofTorchName(state.getValue().path("dtype").asText())
                                  .map(DType::bytes)
                                  .orElse(0))));
    }
    return new Manifest(digests);
  }

  private static int crc32(JsonNode text, String where) {
    try {
      return Integer.parseUnsignedInt(text.asText(), 16);
    } catch (NumberFormatException e) {
      throw new RefusedException(where, "expected a CRC-32 of 8 hexadecimal digits, found " + text);
    }
  }

  /** The version of this program. */
  public static String toolVersion() {
    Properties properties = new Properties();
    try (InputStream in = Manifest.class.getResourceAsStream("version.properties")) {
      properties.load(in);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return properties.getProperty("version");
  }
}

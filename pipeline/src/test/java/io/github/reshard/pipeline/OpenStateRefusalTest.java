package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Reassembly;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Open training states that are damaged, mixed, or say what cannot be. */
class OpenStateRefusalTest {
  private static final Path GOLDEN =
      Path.of(System.getProperty("reshard.testdata"), "openstate", "z2-fp16-dynamic");

  @TempDir Path temp;

  private Path copy() {
    try {
      Path copy = Files.createDirectories(temp.resolve("copy"));
      try (Stream<Path> files = Files.list(GOLDEN)) {
        for (Path file : files.toList()) {
          Files.copy(file, copy.resolve(file.getFileName()));
        }
      }
      return copy;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private RefusedException refusal(Path input) {
    RefusedException[] refused = new RefusedException[1];
    Path output = temp.resolve("refused");
    assertThatThrownBy(() -> Resharding.run(Resharding.options(input, output, 2)))
        .satisfies(e -> refused[0] = Resharding.cause(e, RefusedException.class));
    assertThat(output.resolve("latest")).doesNotExist();
    return refused[0];
  }

  private String edited(Consumer<ObjectNode> edit) {
    Path copy = copy();
    Path json = copy.resolve("optimizer.json");
    ObjectMapper mapper = new ObjectMapper();
    try {
      ObjectNode root = (ObjectNode) mapper.readTree(json.toFile());
      edit.accept(root);
      mapper.writeValue(json.toFile(), root);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return refusal(copy).getMessage();
  }

  private static ObjectNode ofDeepSpeed(ObjectNode root) {
    return (ObjectNode) root.get("deepspeed");
  }

  private static ObjectNode parameter(ObjectNode root, String name) {
    return (ObjectNode) root.get("parameters").get(name);
  }

  @Test
  void aVersionThatIsNotKnown() {
    assertThat(edited(root -> root.put("version", 2))).contains("version: expected 1, found 2");
  }

  @Test
  void whatIsNoOpenStateOfDeepSpeeds() {
    assertThat(edited(root -> root.remove("deepspeed"))).contains("Export the checkpoint again");
  }

  @Test
  void aTagThatLeavesTheOutput() {
    assertThat(edited(root -> ofDeepSpeed(root).put("tag", "../../elsewhere")))
        .contains("cannot be the name of a directory");
  }

  @Test
  void aParameterThatIsMissing() {
    assertThat(edited(root -> ((ObjectNode) root.get("parameters")).remove("head.weight")))
        .contains("has head.weight in param group 0, parameters has 'head.weight' not at all");
  }

  @Test
  void aParameterThatIsThereTwice() {
    assertThat(
            edited(root -> ((ArrayNode) ofDeepSpeed(root).get("order").get(0)).add("head.weight")))
        .contains("has head.weight in param group 0");
  }

  @Test
  void aParameterOfNoGroup() {
    assertThat(edited(root -> ((ArrayNode) ofDeepSpeed(root).get("order").get(0)).remove(5)))
        .contains("parameters.head.weight", "is in no param group");
  }

  @Test
  void aParameterOfTwoGroups() {
    assertThat(edited(root -> parameter(root, "head.weight").put("group", 1)))
        .contains("'head.weight' in group 1");
  }

  @Test
  void aStateThatIsMissing() {
    assertThat(
            edited(
                root ->
                    ((ObjectNode) parameter(root, "head.weight").get("states")).remove("exp_avg")))
        .contains("expected the states [exp_avg, exp_avg_sq, fp32], found [exp_avg_sq, fp32]");
  }

  @Test
  void aStateOfAnotherShape() {
    assertThat(
            edited(
                root ->
                    ((ObjectNode) parameter(root, "head.weight").get("states"))
                        .put("exp_avg", "blocks.0.fc.weight.exp_avg")))
        .contains("has shape [40, 13], the weight of its parameter has [37, 13]");
  }

  @Test
  void aTensorThatIsNowhere() {
    assertThat(
            edited(
                root ->
                    ((ObjectNode) parameter(root, "head.weight").get("states"))
                        .put("exp_avg", "nowhere")))
        .contains("names the tensor 'nowhere', which no safetensors file holds");
  }

  @Test
  void mastersOfAnotherParameterOfTheSameShape() {
    assertThat(
            edited(
                root ->
                    ((ObjectNode) parameter(root, "blocks.0.fc.weight").get("states"))
                        .put("fp32", "blocks.1.fc.weight.fp32")))
        .contains("is not the module's weight");
  }

  @Test
  void stepsThatDiffer() {
    assertThat(edited(root -> ((ObjectNode) root.get("param_groups").get(0)).put("step", 4)))
        .contains("param_groups[0].step: says 4, deepspeed.groups[0] 3.0");
  }

  @Test
  void aStepThatHasNoPlace() {
    assertThat(
            edited(
                root ->
                    ((ObjectNode) ofDeepSpeed(root).get("groups").get(1).get("state"))
                        .remove("step")))
        .contains("param_groups[1].step: says 3, deepspeed.groups[1] none");
  }

  @Test
  void weightsOfAnotherType() {
    assertThat(
            edited(
                root ->
                    ((ObjectNode) ofDeepSpeed(root).get("module").get(1)).put("dtype", "bfloat16")))
        .contains("is of type float16, in the run's module it was of bfloat16");
  }

  @Test
  void aClassThatNobodyAskedFor() {
    assertThat(
            edited(
                root ->
                    ((ObjectNode) ofDeepSpeed(root).get("optimizer"))
                        .set(
                            "loss_scaler",
                            new ObjectMapper()
                                .createObjectNode()
                                .set(
                                    "!loss_scaler",
                                    new ObjectMapper().createArrayNode().add("system").add(1)))))
        .contains("deepspeed.optimizer.loss_scaler", "expected a value as docs/open-state.md");
  }

  @Test
  void aGlobalThatIsNoType() {
    assertThat(
            edited(
                root ->
                    ofDeepSpeed(root)
                        .withObject("/model")
                        .putObject("mydata")
                        .put("!dtype", "load")))
        .contains("deepspeed.model.mydata", "expected a value as docs/open-state.md");
  }

  @Test
  void whatARunNeedsAndJsonHasNoPlaceFor() {
    assertThat(
            edited(
                root -> ((ArrayNode) ofDeepSpeed(root).get("left_out")).add("model.lr_scheduler")))
        .contains("model.lr_scheduler", "a run cannot go on without it");
  }

  @Test
  void anIndexOfAnotherExport() throws IOException {
    Path copy = copy();
    Files.move(
        copy.resolve("optimizer.safetensors"),
        copy.resolve("optimizer-00001-of-00001.safetensors"));
    Path index = copy.resolve("optimizer.safetensors.index.json");
    Files.writeString(
        index,
        "{\"weight_map\": {\"head.weight.fp32\": \"optimizer-00002-of-00002.safetensors\"}}");
    assertThat(refusal(copy))
        .hasMessageContaining("names the file 'optimizer-00002-of-00002.safetensors', and no such");
    Files.writeString(
        index, "{\"weight_map\": {\"nowhere\": \"optimizer-00001-of-00001.safetensors\"}}");
    assertThat(refusal(copy)).hasMessageContaining("which does not hold it");
    Files.writeString(
        index,
        "{\"weight_map\": {\"head.weight.fp32\": \"optimizer-00001-of-00001.safetensors\"}}");
    assertThat(refusal(copy)).hasMessageContaining("does not name for it");
    Files.writeString(index, "{\"weight_map\": {\"head.weight.fp32\": \"../copy/x\"}}");
    assertThat(refusal(copy)).hasMessageContaining("names the file '../copy/x', and no such");
    Files.writeString(index, "{}");
    assertThat(refusal(copy)).hasMessageContaining("expected a JSON object");
  }

  @Test
  void filesOfTwoExports() throws IOException {
    Path copy = copy();
    Files.writeString(copy.resolve("model.safetensors.index.json"), "{\"weight_map\": {}}");
    assertThat(refusal(copy)).hasMessageContaining("Two exports are mixed");
  }

  @Test
  void aFileThatIsMissing() throws IOException {
    Path copy = copy();
    Files.delete(copy.resolve("model.safetensors"));
    assertThat(refusal(copy))
        .hasMessageContaining("expected model.safetensors or model.safetensors.index.json");
  }

  @Test
  void aFileThatIsCutOff() throws IOException {
    Path copy = copy();
    Path file = copy.resolve("optimizer.safetensors");
    byte[] bytes = Files.readAllBytes(file);
    Files.write(file, Arrays.copyOf(bytes, bytes.length - 4));
    assertThat(refusal(copy)).hasMessageContaining("The file is damaged");
  }

  private Path exported() {
    PipelineOptions of =
        Resharding.options(GoldenCase.of("z2-fp16-dynamic").source(), temp.resolve("out"), 1);
    PipelineOptionsFactory.register(ExportOptions.class);
    ExportOptions options = of.as(ExportOptions.class);
    options.setDtype("asSaved");
    options.setOptimizer(true);
    ExportPipeline.run(options, Resharding.SILENT);
    return temp.resolve("out");
  }

  /** Safetensors has no checksums; the manifest of the export has. */
  @Test
  void aFlippedBitIsSeenByTheManifest() throws IOException {
    Path out = exported();
    Path file = out.resolve("optimizer.safetensors");
    byte[] bytes = Files.readAllBytes(file);
    int first = 8 + ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).getInt(0);
    bytes[first] ^= 1; // of a moment, which nothing can be held against
    Files.write(file, bytes);

    assertThat(refusal(out)).hasMessageContaining("CRC-32");
  }

  /** What is proven says which files had no checksums to be proven by. */
  @Test
  void withoutAManifestNothingOfTheStatesIsCalledProven() throws IOException {
    ReshardReport report = Resharding.run(Resharding.options(GOLDEN, temp.resolve("back"), 2));

    assertThat(report.proven()).noneMatch(proof -> proof.contains("CRC-32"));
    assertThat(report.proven())
        .anyMatch(proof -> proof.contains("master weights of 12 parameters, cast"));
    assertThat(Reassembly.of(temp.resolve("back"), "global_step3").tensors())
        .containsExactlyInAnyOrderEntriesOf(
            Reassembly.of(GoldenCase.of("z2-fp16-dynamic").source(), "global_step3").tensors());
  }

  @Test
  void withTheManifestAllOfItIsProven() {
    ReshardReport report = Resharding.run(Resharding.options(exported(), temp.resolve("back"), 2));

    assertThat(report.proven()).anyMatch(proof -> proof.contains("have the CRC-32"));
    assertThat(report.notes()).noneMatch(note -> note.contains("without CRCs"));
  }
}

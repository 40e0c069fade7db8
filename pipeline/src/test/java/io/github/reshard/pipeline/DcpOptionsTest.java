package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.dcp.DcpDialect;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Options that do not go together with what is there. */
class DcpOptionsTest {
  private static final GoldenCase TWO_GROUPS = GoldenCase.of("z2-fp32-twogroups");

  @TempDir Path scratch;

  @Test
  void aDistributedCheckpointWithoutATemplate() {
    Path output = scratch.resolve("dcp");
    WithoutBeam.toDcp(TWO_GROUPS.source(), output, DcpDialect.TORCH, 1);
    Path dcp = output.resolve(TWO_GROUPS.tag());
    String refusal = Resharding.refusal(dcp, scratch.resolve("out"), 2);
    assertThat(refusal)
        .contains("this is a distributed checkpoint of PyTorch")
        .contains("--template")
        .contains("no tool is needed");
  }

  /** As HuggingFaceStorageWriter names its files: there is no optimizer in them, and none comes. */
  @Test
  void safetensorsAreWeightsAlone() throws IOException {
    Path weights = Files.createDirectories(scratch.resolve("weights"));
    Files.createFile(weights.resolve("shard-00001-model-00001-of-00001.safetensors"));
    ReshardOptions options = Resharding.options(weights, scratch.resolve("out"), 2);
    options.setTemplate(TWO_GROUPS.source().toString());
    assertThat(Resharding.refusal(options)).contains("holds safetensors").contains("weights alone");
  }

  @Test
  void aTemplateForACheckpointOfDeepSpeed() {
    ReshardOptions options = Resharding.options(TWO_GROUPS.source(), scratch.resolve("out"), 2);
    options.setTemplate(TWO_GROUPS.source().toString());
    assertThat(Resharding.refusal(options))
        .contains("expected a distributed checkpoint of PyTorch");
  }

  /** What fills a template is written as the template is; another format would be passed over. */
  @ParameterizedTest
  @ValueSource(strings = {Formats.DCP, Formats.UNIVERSAL})
  void aTemplateAndAnotherFormat(String format) {
    ReshardOptions options = Resharding.options(TWO_GROUPS.source(), scratch.resolve("out"), 2);
    options.setTemplate(TWO_GROUPS.source().toString());
    options.setOutputFormat(format);
    assertThat(Resharding.refusal(options)).contains("leave --outputFormat out");
  }

  @Test
  void optionsWithoutTheFormatTheyAreFor() {
    ReshardOptions options = Resharding.options(TWO_GROUPS.source(), scratch.resolve("out"), 2);
    options.setDialect("torch");
    assertThat(Resharding.refusal(options)).contains("--dialect and --filesPerCheckpoint are for");
    options.setOutputFormat(Formats.DCP);
    assertThat(Resharding.refusal(options))
        .contains("leave --targetWorldSize and --targetStage out");
  }
}

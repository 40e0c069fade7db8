package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.template.Contents;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class DcpInspectionTest {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));

  private static CommandOptions options(Path input) {
    CommandOptions options = PipelineOptionsFactory.as(CommandOptions.class);
    options.setInput(input.toString());
    return options;
  }

  @Test
  void whatKeysBeginWith() {
    ForeignInspection inspection =
        ForeignInspection.of(options(TESTDATA.resolve("dcp/fsdp2/two-groups-at-3"))).orElseThrow();
    Contents found = inspection.contents();

    assertThat(inspection.what()).isEqualTo("a distributed checkpoint of PyTorch");
    assertThat(found.parts())
        .containsExactly(
            new Contents.Part("model", 13, 3175, Map.of("float32", 3175L), 0),
            new Contents.Part("optim.state", 36, 6360, Map.of("float32", 6360L), 0),
            new Contents.Part("optim.param_groups", 0, 0, Map.of(), 24),
            new Contents.Part("", 0, 0, Map.of(), 1));
    assertThat(found.mostChunks()).isEqualTo(3);
    assertThat(found.files()).isEqualTo(4);
    assertThat(inspection.json())
        .contains("\"mostChunks\" : 3", "\"name\"", "\"parts\"", "\"files\" : 4", "\"bytes\"")
        .doesNotContain("remark");
  }

  /** The output of --outputFormat=dcp is named as it was in --output. */
  @Test
  void theFileLatestDcpNamesTheDirectory(@TempDir Path output) throws IOException {
    Path golden = TESTDATA.resolve("dcp/fsdp2/two-groups-at-3");
    try (Stream<Path> files = Files.list(golden)) {
      Path tag = Files.createDirectory(output.resolve("step5"));
      for (Path file : files.filter(Files::isRegularFile).toList()) {
        Files.copy(file, tag.resolve(file.getFileName()));
      }
    }
    Path pointer = Files.writeString(output.resolve("latest_dcp"), "step5\n");
    assertThat(ForeignInspection.of(options(output)).orElseThrow().contents().parts())
        .isEqualTo(ForeignInspection.of(options(golden)).orElseThrow().contents().parts());

    for (String wrong : List.of("", "step6", "../step5", "x".repeat(1 << 20))) {
      Files.writeString(pointer, wrong);
      assertThatThrownBy(() -> ForeignInspection.of(options(output)))
          .isInstanceOf(RefusedException.class)
          .hasMessageContaining("latest_dcp")
          .hasMessageContaining("[step5]");
    }
    Files.writeString(output.resolve("latest"), "step5");
    assertThat(ForeignInspection.of(options(output))).isEmpty();
  }

  @Test
  void aCheckpointOfDeepSpeedIsNone() {
    assertThat(ForeignInspection.of(options(TESTDATA.resolve("corpus/z1-bf16/source")))).isEmpty();
    assertThat(ForeignInspection.of(options(TESTDATA.resolve("corpus/nowhere")))).isEmpty();
  }

  @Test
  void aPictureOfRanksIsRefused() {
    CommandOptions options = options(TESTDATA.resolve("dcp/torch-2.15.0/flat"));
    options.setHtml("page.html");
    assertThatThrownBy(() -> ForeignInspection.of(options))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("--html draws the ranks");
  }
}

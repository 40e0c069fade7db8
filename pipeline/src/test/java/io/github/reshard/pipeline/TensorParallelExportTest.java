package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.testing.Safetensors;
import io.github.reshard.testing.WithoutBeam;
import java.nio.file.Path;
import java.util.Optional;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Tensor-parallel ranks that the graph joins: rows by several workers, and what is proven. */
class TensorParallelExportTest {
  private static final Path TENSOR = Path.of(System.getProperty("reshard.testdata"), "tensor");

  @TempDir Path temp;

  private ReshardReport export(Path input, String name) {
    PipelineOptions of = Resharding.checked(Resharding.options(input, temp.resolve(name), 1));
    PipelineOptionsFactory.register(ExportOptions.class);
    ExportOptions options = of.as(ExportOptions.class);
    options.setDtype("asSaved");
    options.setOptimizer(true);
    options.setPartBytes(1000);
    return ExportPipeline.run(options, Resharding.SILENT);
  }

  /** Of every way to cut a tensor, and of both families of stages. */
  @ParameterizedTest
  @ValueSource(
      strings = {
        "columns-z1/tp2dp2",
        "columns-z3/tp3dp1",
        "llama-tied-z2/tp2dp1",
        "qkv-z2/tp5dp1",
        "cut-z3/tp2dp1"
      })
  void theGraphWritesTheSameAndProvesIt(String saved) {
    ReshardReport report = export(TENSOR.resolve(saved), "graph");

    assertThat(report.proven()).anyMatch(proof -> proof.contains("have the CRC-32"));
    // ZeRO-3 stores no weights that the masters could be held against.
    assertThat(report.proven().stream().anyMatch(proof -> proof.contains("cast to the module's")))
        .isEqualTo(!saved.contains("-z3/"));
    WithoutBeam.export(TENSOR.resolve(saved), temp.resolve("loop"), Optional.empty());
    for (String file : new String[] {"model.safetensors", "optimizer.safetensors"}) {
      assertThat(Safetensors.read(temp.resolve("graph").resolve(file)))
          .as(file)
          .isNotEmpty()
          .containsExactlyInAnyOrderEntriesOf(Safetensors.read(temp.resolve("loop").resolve(file)));
    }
  }
}

package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Scratch;
import io.github.reshard.transforms.TensorVerdict;
import java.nio.file.Path;
import java.util.stream.IntStream;
import org.apache.beam.runners.direct.DirectRunner;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** A distributed checkpoint is held against one of DeepSpeed, on whichever side it is. */
class DcpVerifyTest {
  private static final Path FSDP2 = Path.of(System.getProperty("reshard.testdata"), "dcp", "fsdp2");

  @TempDir Path scratch;

  private static VerifyReport verify(Path a, Path b) {
    CommandOptions options = PipelineOptionsFactory.as(CommandOptions.class);
    options.setRunner(DirectRunner.class);
    options.setInput(a.toString());
    options.setOutput(b.toString());
    return VerifyPipeline.run(options, Resharding.SILENT);
  }

  @ParameterizedTest
  @CsvSource({"two-groups-at-3, z2-fp32-twogroups, 36", "freeze-tie-at-2, z2-freeze-tie, 27"})
  void whatFsdpLoadedIsWhatItSaved(String saved, String name, int tensors) {
    Path source = GoldenCase.of(name).source();
    VerifyReport report = verify(source, FSDP2.resolve(saved));
    assertThat(report.equal()).isTrue();
    assertThat(report.verdicts()).hasSize(tensors);
    assertThat(report.ranksB()).isZero();

    report = verify(FSDP2.resolve(saved), source);
    assertThat(report.equal()).isTrue();
    assertThat(report.ranksA()).isZero();
  }

  @Test
  void whatDiffersIsNamed() {
    Path source = scratch.resolve("source");
    Scratch.copyOf(GoldenCase.of("z2-fp32-twogroups").source(), source);
    Path tag = source.resolve(Scratch.TAG);
    Scratch.edit(
        tag.resolve(Scratch.MODEL),
        root -> ((PyDict) root).entries().replace("global_steps", PyInt.of(4)));
    for (int rank : IntStream.range(0, 4).toArray()) {
      Scratch.edit(
          tag.resolve("zero_pp_rank_" + rank + "_mp_rank_00_optim_states.pt"),
          root -> group(root).entries().replace("lr", new PyFloat(0.5)));
    }

    VerifyReport report = verify(source, FSDP2.resolve("two-groups-at-3"));

    assertThat(report.equal()).isFalse();
    assertThat(report.verdicts()).allMatch(TensorVerdict::equal);
    assertThat(report.valueDifferences())
        .containsExactlyInAnyOrder(
            "optimizer: param_groups[0].lr is the number 0.5 in one and the number 0.01 in the"
                + " other",
            "global_steps is the number 4 in one and the number 3 in the other");
  }

  private static PyDict group(PyObject root) {
    PyObject inner =
        ((PyDict) ((PyDict) root).get("optimizer_state_dict")).get("base_optimizer_state");
    return (PyDict) ((PyList) ((PyDict) inner).get("param_groups")).get(0);
  }

  @Test
  void anElementAndABufferThatDiffer() {
    Path source = scratch.resolve("source");
    Scratch.copyOf(GoldenCase.of("z2-fp32-twogroups").source(), source);
    Path tag = source.resolve(Scratch.TAG);
    Scratch.rewrite(
        tag.resolve("zero_pp_rank_2_mp_rank_00_optim_states.pt"),
        root -> {},
        (key, bytes) -> {
          if (bytes.length > 1000 && key.equals("1")) {
            bytes[500] ^= 1;
          }
        });
    Scratch.rewrite(
        tag.resolve(Scratch.MODEL),
        root -> {},
        (key, bytes) -> {
          if (bytes.length == 4) {
            bytes[0] ^= 1;
          }
        });

    VerifyReport report = verify(source, FSDP2.resolve("two-groups-at-3"));

    assertThat(report.verdicts().stream().filter(verdict -> !verdict.equal())).hasSize(1);
    assertThat(report.valueDifferences()).containsExactly("module: scale is another one");
  }

  @Test
  void whatCannotBeComparedIsRefused() {
    Path source = GoldenCase.of("z2-fp32-twogroups").source();
    assertThatThrownBy(() -> verify(source, FSDP2.resolve("columns-at-2")))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("cut along another dimension than the first");
    assertThatThrownBy(
            () -> verify(FSDP2.resolve("columns-at-2"), FSDP2.resolve("two-groups-at-3")))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining(
            "this is a distributed checkpoint of PyTorch, and --output is a distributed"
                + " checkpoint");
    assertThatThrownBy(() -> verify(source, FSDP2.resolve("freeze-tie-at-2")))
        .isInstanceOf(RefusedException.class);
  }
}

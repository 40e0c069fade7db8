package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpDialect;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import io.github.reshard.transforms.TensorVerdict;
import java.io.IOException;
import java.nio.file.Files;
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
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  private static final Path DCP = TESTDATA.resolve("dcp");
  private static final Path FSDP2 = DCP.resolve("fsdp2");
  private static final Path TENSOR = TESTDATA.resolve("tensor");

  @TempDir Path scratch;

  private static VerifyReport verify(Path a, Path b) {
    CommandOptions options = PipelineOptionsFactory.as(CommandOptions.class);
    options.setRunner(DirectRunner.class);
    options.setInput(a.toString());
    options.setOutput(b.toString());
    return VerifyPipeline.run(options, Resharding.SILENT);
  }

  private Path toDcp(Path source, int files) throws IOException {
    Path dcp = scratch.resolve("dcp");
    WithoutBeam.toDcp(source, dcp, DcpDialect.TORCH, files);
    Path tag = dcp.resolve(Scratch.TAG);
    // It has no digests: the pipeline makes these.
    Files.delete(tag.resolve("reshard-manifest.json"));
    return tag;
  }

  @ParameterizedTest
  @CsvSource({"two-groups-at-3, z2-fp32-twogroups, 37", "freeze-tie-at-2, z2-freeze-tie, 30"})
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

    assertThat(report.verdicts().stream().filter(verdict -> !verdict.equal()))
        .extracting(TensorVerdict::state)
        .containsExactlyInAnyOrder("exp_avg", "module");
    assertThat(report.verdicts().stream().filter(verdict -> !verdict.equal()))
        .extracting(verdict -> verdict.parameter().name())
        .contains("scale");
  }

  /** Parameters of both sides are cut in columns, and in other ones. */
  @ParameterizedTest
  @CsvSource({"columns-z3/tp3dp1", "llama-tied-z2/tp2dp1"})
  void tensorParallelRanksAreJoinedToBeCompared(String ranks) throws IOException {
    Path source = TENSOR.resolve(ranks);
    VerifyReport report = verify(source, toDcp(source, 2));

    assertThat(report.equal()).as(report.json()).isTrue();
    assertThat(report.verdicts()).isNotEmpty();
  }

  @Test
  void aTensorParallelRankThatDiffers() throws IOException {
    Path source = TENSOR.resolve("columns-z1/tp2dp2");
    Path dcp = toDcp(source, 1);
    Path copy = scratch.resolve("copy");
    Scratch.copyOf(source, copy);
    Scratch.rewrite(
        copy.resolve(Scratch.TAG).resolve("bf16_zero_pp_rank_1_mp_rank_01_optim_states.pt"),
        root -> {},
        (key, bytes) -> {
          if (bytes.length > 1000 && key.equals("1")) {
            bytes[40] ^= 1;
          }
        });

    VerifyReport report = verify(copy, dcp);

    assertThat(report.verdicts().stream().filter(verdict -> !verdict.equal())).hasSize(1);
  }

  @Test
  void columnsOfFsdpAreComparedWithWhatItLoaded() {
    VerifyReport report =
        verify(GoldenCase.of("z2-fp32-twogroups").source(), FSDP2.resolve("columns-at-2"));
    assertThat(report.equal()).as(report.json()).isTrue();
  }

  @ParameterizedTest
  @CsvSource({
    "torch-2.6.0/nested, torch-2.15.0/nested",
    "fsdp2/columns-at-2, fsdp2/two-groups-at-3"
  })
  void twoDistributedCheckpoints(String one, String other) {
    VerifyReport report = verify(DCP.resolve(one), DCP.resolve(other));
    assertThat(report.equal()).as(report.json()).isTrue();
    assertThat(report.verdicts()).hasSizeGreaterThan(10);
    assertThat(report.ranksA()).isZero();
    assertThat(report.ranksB()).isZero();
  }

  @Test
  void twoDistributedCheckpointsThatDiffer() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    Path source = scratch.resolve("source");
    Scratch.copyOf(golden.source(), source);
    Path tag = source.resolve(Scratch.TAG);
    Scratch.edit(
        tag.resolve(Scratch.MODEL),
        root -> ((PyDict) root).entries().replace("global_steps", PyInt.of(3000)));
    VerifyReport report = verify(toDcp(source, 3), FSDP2.resolve("two-groups-at-3"));

    assertThat(report.verdicts()).allMatch(TensorVerdict::equal);
    // torch.optim.AdamW saves the one option that DeepSpeed did not.
    assertThat(report.valueDifferences())
        .containsExactly(
            "global_steps differs in the root: 3000 vs 3",
            "optim.param_groups.0.decoupled_weight_decay differs in the root: False vs True",
            "optim.param_groups.1.decoupled_weight_decay differs in the root: False vs True");
  }

  @Test
  void whatCannotBeComparedIsRefused() {
    Path source = GoldenCase.of("z2-fp32-twogroups").source();
    assertThatThrownBy(
            () -> verify(DCP.resolve("torch-2.15.0/boxes"), FSDP2.resolve("two-groups-at-3")))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("has no tensor in common with");
    assertThatThrownBy(() -> verify(source, FSDP2.resolve("freeze-tie-at-2")))
        .isInstanceOf(RefusedException.class);
  }
}

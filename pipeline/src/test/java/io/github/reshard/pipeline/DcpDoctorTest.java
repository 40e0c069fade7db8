package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpDialect;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.beam.runners.direct.DirectRunner;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** All of a distributed checkpoint is read and proven, and nothing of it is taken on trust. */
class DcpDoctorTest {
  private static final Path FSDP2 =
      Path.of(System.getProperty("reshard.testdata"), "dcp", "fsdp2", "two-groups-at-3");

  @TempDir Path scratch;

  private static ReshardReport check(Path dcp) {
    CommandOptions options = PipelineOptionsFactory.as(CommandOptions.class);
    options.setRunner(DirectRunner.class);
    options.setInput(dcp.toString());
    return ReshardPipeline.check(options, Resharding.SILENT);
  }

  @Test
  void whatPyTorchSaved() {
    ReshardReport report = check(FSDP2);

    assertThat(report.sourceWorldSize()).isZero();
    assertThat(report.bytesWritten()).isZero();
    assertThat(report.proven())
        .anyMatch(proof -> proof.startsWith("the chunks of each of 49 tensors hold every element"))
        .anyMatch(proof -> proof.startsWith("no data file is a copy of another"))
        .noneMatch(proof -> proof.startsWith("each file is the one that its name says"));
    assertThat(report.notes())
        .anyMatch(note -> note.startsWith("not proven that each file is the one that its name"));
  }

  /** Whose data files say which ones they are, in directories of their own here. */
  @Test
  void whatReshardWrote() {
    GoldenCase golden = GoldenCase.of("z2-freeze-tie");
    WithoutBeam.toDcp(golden.source(), scratch, DcpDialect.ACCELERATE, 3);

    ReshardReport report = check(scratch.resolve(golden.tag()));

    assertThat(report.proven())
        .contains("each file is the one that its name says: archive names of 6 files");
    assertThat(report.notes()).isEmpty();
  }

  @Test
  void damageInAnyEntryIsSeen() throws IOException {
    Path dcp = scratch.resolve("dcp");
    Scratch.copyOf(FSDP2, dcp);
    Path file = dcp.resolve("__2_0.distcp");
    byte[] bytes = Files.readAllBytes(file);
    bytes[bytes.length / 2] ^= 1;
    Files.write(file, bytes);

    assertThatThrownBy(() -> check(dcp))
        .satisfiesAnyOf(
            refused -> assertThat(refused).isInstanceOf(RefusedException.class),
            refused -> assertThat(refused).hasRootCauseInstanceOf(RefusedException.class))
        .hasMessageContaining("__2_0.distcp");
  }
}

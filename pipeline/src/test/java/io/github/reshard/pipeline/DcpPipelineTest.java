package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.dcp.DcpDialect;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.DisturbedCheckpoint;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.SortedMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The graph does what the loop of the other tests does, in parts as small as they may be. */
class DcpPipelineTest {
  private static final String MANIFEST = "global_step3/reshard-manifest.json";

  @TempDir Path scratch;

  @ParameterizedTest
  @ValueSource(strings = {"z2-fp32-twogroups", "z3-freeze-tie"})
  void outAndBack(String name) {
    GoldenCase golden = GoldenCase.of(name);
    Path out = scratch.resolve("out");
    ReshardOptions options = Resharding.options(golden.source(), out, 1);
    options.setTargetWorldSize(null);
    options.setOutputFormat(Formats.DCP);
    options.setDialect(DcpDialect.ACCELERATE.optionName());
    options.setFilesPerCheckpoint(2);
    options.setPartBytes(777);
    ReshardReport report = Resharding.run(Resharding.checked(options));

    assertThat(report.targetWorldSize()).isZero();
    Path loop = scratch.resolve("loop");
    WithoutBeam.toDcp(golden.source(), loop, DcpDialect.ACCELERATE, 2);
    assertThat(contents(out)).isEqualTo(contents(loop));

    Path back = scratch.resolve("back");
    options = Resharding.options(out.resolve(golden.tag()), back, 3);
    options.setTemplate(golden.source().toString());
    options.setPartBytes(1001);
    report = Resharding.run(Resharding.checked(options));

    assertThat(report.sourceWorldSize()).isZero();
    assertThat(report.proven())
        .anyMatch(proof -> proof.contains("the chunks of each tensor hold every element once"));
    Path loopBack = scratch.resolve("loop back");
    WithoutBeam.fromDcp(
        out.resolve(golden.tag()), golden.source(), loopBack, 3, ZeroStage.AS_SAVED);
    assertThat(contents(back)).isEqualTo(contents(loopBack));
  }

  private static Map<String, String> contents(Path root) {
    SortedMap<String, String> contents = Scratch.contents(root);
    contents.remove(MANIFEST);
    contents.keySet().removeAll(TargetStore.POINTERS);
    return contents;
  }

  /** FSDP2 loaded the case and saved it again on ranks that cut matrices along their columns. */
  @ParameterizedTest
  @ValueSource(longs = {64 << 20, 501})
  void chunksThatAreColumns(long partBytes) throws IOException {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    Path dcp = Path.of(System.getProperty("reshard.testdata"), "dcp", "fsdp2", "columns-at-2");
    Path back = scratch.resolve("back");
    ReshardOptions options = Resharding.options(dcp, back, golden.sourceWorld());
    options.setTemplate(DisturbedCheckpoint.of(golden, scratch.resolve("template")).toString());
    options.setPartBytes(partBytes);
    Resharding.run(options);

    assertThat(CheckpointComparison.with(golden.source()).firstDifference(back)).isEmpty();
  }

  @Test
  void damageInAChunkIsSeen() throws Exception {
    GoldenCase golden = GoldenCase.of("z2-fp32-twogroups");
    Path dcp = scratch.resolve("dcp");
    Scratch.copyOf(
        Path.of(System.getProperty("reshard.testdata"), "dcp", "fsdp2", "two-groups-at-3"), dcp);
    Path file = dcp.resolve("__1_0.distcp");
    byte[] bytes = Files.readAllBytes(file);
    // In a payload: the longest run of the file that holds no text of a container.
    bytes[bytes.length / 2] ^= 1;
    Files.write(file, bytes);
    ReshardOptions options = Resharding.options(dcp, scratch.resolve("out"), 2);
    options.setTemplate(golden.source().toString());

    assertThat(Resharding.refusal(options)).contains("__1_0.distcp");
    assertThat(scratch.resolve("out/global_step3")).doesNotExist();
  }
}

package io.github.reshard.checkpoint.dcp;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.DisturbedCheckpoint;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.WithoutBeam;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * A checkpoint of DeepSpeed that goes to a distributed checkpoint and comes back is what it was,
 * though the template that it comes back with has other numbers in every tensor and counter.
 */
class DcpInputTest {
  @TempDir Path scratch;

  static Stream<GoldenCase> cases() {
    return DcpOutputTest.cases();
  }

  @ParameterizedTest
  @MethodSource("cases")
  void whatGoesOutComesBack(GoldenCase golden) throws IOException {
    Path template = DisturbedCheckpoint.of(golden, scratch.resolve("template"));
    for (DcpDialect dialect : DcpDialect.values()) {
      Path dcp = scratch.resolve(dialect.name());
      WithoutBeam.toDcp(golden.source(), dcp, dialect, 2);
      Path back = scratch.resolve(dialect.name() + " back");

      WithoutBeam.fromDcp(
          dcp.resolve(golden.tag()), template, back, golden.sourceWorld(), ZeroStage.AS_SAVED);

      assertThat(CheckpointComparison.with(golden.source()).firstDifference(back))
          .as(dialect.optionName())
          .isEmpty();
    }
  }

  @ParameterizedTest
  @MethodSource("cases")
  void atOtherRanks(GoldenCase golden) throws IOException {
    Path template = DisturbedCheckpoint.of(golden, scratch.resolve("template"));
    Path dcp = scratch.resolve("dcp");
    WithoutBeam.toDcp(golden.source(), dcp, DcpDialect.TORCH, 3);
    for (int ranks : List.of(1, 5)) {
      Path back = scratch.resolve("back at " + ranks);
      WithoutBeam.fromDcp(dcp.resolve(golden.tag()), template, back, ranks, ZeroStage.AS_SAVED);
      Path direct = scratch.resolve("direct to " + ranks);
      WithoutBeam.reshard(golden.source(), direct, ranks);

      assertThat(CheckpointComparison.with(direct).firstDifference(back)).isEmpty();
    }
  }

  /**
   * FSDP2 of PyTorch 2.15 loaded the case and saved it again at once, in chunks of its own: nested
   * at 3 ranks, and flattened at 2 with frozen and tied weights.
   */
  @ParameterizedTest
  @CsvSource({"two-groups-at-3, z2-fp32-twogroups", "freeze-tie-at-2, z2-freeze-tie"})
  void whatFsdpSavedIsWhatItLoaded(String saved, String name) throws IOException {
    GoldenCase golden = GoldenCase.of(name);
    Path dcp = Path.of(System.getProperty("reshard.testdata"), "dcp", "fsdp2", saved);
    Path back = scratch.resolve("back");

    WithoutBeam.fromDcp(
        dcp,
        DisturbedCheckpoint.of(golden, scratch.resolve("template")),
        back,
        golden.sourceWorld(),
        ZeroStage.AS_SAVED);

    assertThat(CheckpointComparison.with(golden.source()).firstDifference(back)).isEmpty();
  }

  /**
   * A model that FSDP2 of PyTorch 2.15 trained in bfloat16 altogether: each of its numbers is the
   * float32 that it is, at a size with padding too, and goes out again as that.
   */
  @ParameterizedTest
  @ValueSource(ints = {2, 5})
  void numbersOf16BitsBecomeFloat32(int ranks) throws IOException {
    Path dcp = Path.of(System.getProperty("reshard.testdata"), "dcp", "fsdp2", "bf16-at-2");
    Path template = DisturbedCheckpoint.of(GoldenCase.of("z1-bf16"), scratch.resolve("template"));
    Path back = scratch.resolve("back");
    List<String> notes =
        WithoutBeam.fromDcp(dcp, template, back, ranks, ZeroStage.AS_SAVED).notes();
    assertThat(notes).anyMatch(note -> note.startsWith("36 weights and states are of 16 bits"));

    Path again = scratch.resolve("again");
    WithoutBeam.toDcp(back, again, DcpDialect.TORCH, 1);
    DcpDirectory saved = directory(dcp);
    DcpDirectory made = directory(again.resolve("global_step3"));
    int compared = 0;
    for (String key : saved.metadata().items().keySet()) {
      if (saved.metadata().tensor(key).filter(t -> t.dtype() == DType.BFLOAT16).isPresent()) {
        byte[] narrow = bytes(saved, dcp, key);
        byte[] wide = bytes(made, again.resolve("global_step3"), key);
        byte[] widened = new byte[narrow.length * 2];
        for (int e = 0; e < narrow.length / 2; e++) {
          System.arraycopy(narrow, e * 2, widened, e * 4 + 2, 2);
        }
        assertThat(wide).as(key).isEqualTo(widened);
        compared++;
      }
    }
    assertThat(compared).as("and a buffer, which the template has as float32").isEqualTo(37);
  }

  private static DcpDirectory directory(Path directory) throws IOException {
    return DcpDirectory.find(new LocalSourceStore(), directory.toString()).orElseThrow();
  }

  /** The elements of a tensor whose chunks are rows, which are in order. */
  private static byte[] bytes(DcpDirectory dcp, Path directory, String key) throws IOException {
    DcpMetadata.Tensor tensor = dcp.metadata().tensor(key).orElseThrow();
    ByteArrayOutputStream all = new ByteArrayOutputStream();
    try (DcpDirectory.Reading reading = dcp.open(new LocalSourceStore())) {
      for (DcpMetadata.Chunk chunk : tensor.chunks()) {
        TorchFile.Entry entry = reading.elements(key, tensor.dtype(), chunk);
        byte[] file = Files.readAllBytes(directory.resolve(chunk.place().file()));
        all.write(file, (int) entry.payloadOffset(), (int) entry.bytes());
      }
    }
    return all.toByteArray();
  }

  /** A template of another stage, and ranks that it was not saved by. */
  @ParameterizedTest
  @CsvSource({
    "two-groups-at-3, z2-fp32-twogroups, 3",
    "freeze-tie-at-2, z2-freeze-tie, 3",
    "freeze-tie-at-2, z2-freeze-tie, 1"
  })
  void toAnotherStage(String saved, String name, int stage) throws IOException {
    GoldenCase golden = GoldenCase.of(name);
    Path dcp = Path.of(System.getProperty("reshard.testdata"), "dcp", "fsdp2", saved);
    Path back = scratch.resolve("back");
    WithoutBeam.fromDcp(
        dcp, DisturbedCheckpoint.of(golden, scratch.resolve("template")), back, 2, stage);
    Path direct = scratch.resolve("direct");
    WithoutBeam.reshard(golden.source(), direct, 2, stage);

    assertThat(CheckpointComparison.with(direct).firstDifference(back)).isEmpty();
  }

  /** What ZeRO-3 saved goes through a distributed checkpoint to ZeRO-2, frozen weights too. */
  @Test
  void fromStage3ToStage2() throws IOException {
    GoldenCase golden = GoldenCase.of("z3-freeze-tie");
    Path dcp = scratch.resolve("dcp");
    WithoutBeam.toDcp(golden.source(), dcp, DcpDialect.TORCH, 1);
    Path back = scratch.resolve("back");
    WithoutBeam.fromDcp(
        dcp.resolve(golden.tag()),
        DisturbedCheckpoint.of(golden, scratch.resolve("template")),
        back,
        3,
        2);
    Path direct = scratch.resolve("direct");
    WithoutBeam.reshard(golden.source(), direct, 3, 2);

    assertThat(CheckpointComparison.with(direct).firstDifference(back)).isEmpty();
  }
}

package io.github.reshard.pipeline;

import static io.github.reshard.testing.Scratch.MODEL;
import static io.github.reshard.testing.Scratch.TAG;
import static io.github.reshard.testing.Scratch.shard;
import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.testing.Scratch;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * Damaged, inconsistent and malicious checkpoints through the whole job. Unreadable files are a
 * matter of {@code scripts/faults}, which gives up the right to read everything.
 */
@Timeout(120)
class HostileCheckpointTest {
  @TempDir Path scratch;
  private Path input;
  private Path output;

  @BeforeEach
  void copy() {
    input = Scratch.copyOf(Scratch.source(), scratch.resolve("input"));
    output = scratch.resolve("output");
  }

  private Path file(String name) {
    return input.resolve(TAG).resolve(name);
  }

  private void assertRefusedWithNothingLeft(String... message) {
    Map<String, String> before = Scratch.contents(input);

    assertThat(Resharding.refusal(input, output, 4)).contains(message);

    assertThat(Scratch.contents(output)).isEmpty();
    assertThat(Scratch.contents(input)).isEqualTo(before);
  }

  @Test
  void whatIsRefusedByThePlanLeavesNothing() throws IOException {
    Files.delete(file(shard(3)));

    assertRefusedWithNothingLeft("dp_world_size 6", "[3] are missing");
  }

  @Test
  void whatIsRefusedByAWorkerLeavesNothing() {
    changeAMaster();

    assertRefusedWithNothingLeft(
        "element 123 of the master weights", "blocks.0.fc.weight", "--trustMasters");
  }

  /** As from another step, with sound CRCs. */
  private void changeAMaster() {
    Scratch.change(file(shard(1)), "3", bytes -> bytes.put(403, (byte) (bytes.get(403) ^ 1)));
  }

  @Test
  void aFlippedBitIsFoundWithItsFileItsEntryAndItsParameters() throws IOException {
    TorchFile shard = Scratch.read(file(shard(3)));
    for (TorchFile.Entry entry : shard.entries()) {
      if (!entry.name().startsWith("data/") || entry.bytes() < 100) {
        continue;
      }
      Path fresh = scratch.resolve("flipped-" + entry.name().replace('/', '-'));
      Scratch.copyOf(Scratch.source(), fresh);
      Path damaged = fresh.resolve(TAG).resolve(shard(3));
      byte[] bytes = Files.readAllBytes(damaged);
      bytes[(int) entry.payloadOffset() + 57] ^= 0x01;
      Files.write(damaged, bytes);

      String refusal = Resharding.refusal(fresh, output, 2);

      // The masters may be found by what they should give before the checksum is complete.
      assertThat(refusal)
          .satisfiesAnyOf(
              text ->
                  assertThat(text)
                      .contains(shard(3), "entry " + entry.name(), "CRC-32")
                      .contains("blocks.1.fc.weight (mp rank 0)", "blocks.1.ln.bias"),
              text -> assertThat(text).contains("of the master weights"));
      assertThat(Scratch.contents(output)).isEmpty();
    }
  }

  @Test
  void aCallableInAPickleIsDataAndIsCarriedOver() throws IOException {
    Path sign = scratch.resolve("executed");
    Scratch.edit(
        file(MODEL),
        root ->
            ((PyDict) root)
                .entries()
                .add(
                    new PyStr("mine"),
                    PyInstance.reduce(
                        new PyGlobal("os", "system"),
                        PyTuple.of(new PyStr("touch " + sign.toAbsolutePath())))));

    Resharding.run(Resharding.options(input, output, 6));
    CommandOptions options = Resharding.options(input, output, 6).as(CommandOptions.class);
    Inspection inspection = Inspection.of(options);

    assertThat(sign).doesNotExist();
    assertThat(inspection.facts().modelValues().get("mine")).contains("os.system", "touch");
    assertThat(output.resolve(TAG).resolve(MODEL)).hasSameBinaryContentAs(file(MODEL));
  }

  @Test
  void aBombOfSharedListsTakesBoundedTimeAndMemory() {
    PyObject bomb = new PyStr("x");
    for (int level = 0; level < 40; level++) {
      List<PyObject> wide = new ArrayList<>();
      for (int i = 0; i < 40; i++) {
        wide.add(bomb);
      }
      bomb = PyList.of(wide);
    }
    PyObject made = bomb;
    Scratch.edit(file(MODEL), root -> ((PyDict) root).entries().add(new PyStr("bomb"), made));

    Resharding.run(Resharding.options(input, output, 6));
    CommandOptions options = Resharding.options(input, output, 6).as(CommandOptions.class);

    assertThat(Inspection.of(options).json()).hasSizeLessThan(10 << 20);
    assertThat(output.resolve(TAG).resolve(MODEL)).hasSameBinaryContentAs(file(MODEL));
  }

  @Test
  void trustedMastersAreListedInTheManifest() {
    changeAMaster();
    ReshardOptions options = Resharding.options(input, output, 2);
    options.setTrustMasters(true);

    ReshardReport report = Resharding.run(options);

    assertThat(report.notes()).anyMatch(note -> note.contains("--trustMasters"));
    assertThat(report.proven()).anyMatch(text -> text.contains("weights of 11 parameters"));
    try {
      assertThat(
              Files.readString(output.resolve(TAG).resolve(CheckpointFiles.MANIFEST))
                  .replaceAll("\\s+", " "))
          .containsSubsequence(
              "\"disagreed\" : [ { \"name\" : \"blocks.0.fc.weight\"", "\"element\" : ");
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}

package io.github.reshard.pipeline;

import static io.github.reshard.testing.Scratch.TAG;
import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Copies of Muon's momentum, which workers compare: ranks 0 and 1 share {@code head.weight}. */
class MuonTest {
  private static final Path SOURCE =
      Path.of(System.getProperty("reshard.testdata"), "field", "muon-z2", "source");

  @TempDir Path scratch;
  private Path input;
  private Path output;

  @BeforeEach
  void copy() {
    input = Scratch.copyOf(SOURCE, scratch.resolve("input"));
    output = scratch.resolve("output");
  }

  private static Path shard(Path checkpoint) {
    return checkpoint.resolve(TAG).resolve("zero_pp_rank_1_mp_rank_00_optim_states.pt");
  }

  /** The momentum of rank 1: 1,521 elements, of which the first 481 are of the shared parameter. */
  private static String momentum(Path checkpoint) {
    return Scratch.read(shard(checkpoint)).entries().stream()
        .filter(entry -> entry.bytes() == 1521 * Float.BYTES)
        .map(TorchFile.Entry::name)
        .map(name -> name.substring("data/".length()))
        .findFirst()
        .orElseThrow();
  }

  private static void flip(ByteBuffer bytes, int element) {
    bytes.put(4 * element, (byte) (bytes.get(4 * element) ^ 1));
  }

  @Test
  void trustInMastersIsNoTrustInMomentum() {
    Scratch.change(shard(input), momentum(input), bytes -> flip(bytes, 0));
    ReshardOptions options = Resharding.options(input, output, 1);
    options.setTrustMasters(true);

    assertThat(Resharding.refusal(options)).contains("ranks 0 and 1 share it");
    assertThat(output.resolve("latest")).doesNotExist();
  }

  @Test
  void aCopyThatNoRankOfTheTargetGetsIsProvenAllTheSame() {
    Scratch.damage(shard(input), momentum(input), bytes -> flip(bytes, 1520));

    assertThat(Resharding.refusal(input, output, 1)).contains("CRC-32").contains("momentum_buffer");
  }

  @Test
  void verifySeesACopyThatDiffers() throws Exception {
    WithoutBeam.reshard(input, output, 2);
    Files.delete(output.resolve(TAG).resolve("reshard-manifest.json")); // empty, as no graph ran
    Scratch.change(shard(output), momentum(output), bytes -> flip(bytes, 7));

    VerifyReport report =
        VerifyPipeline.run(
            Resharding.options(input, output, 1).as(CommandOptions.class), Resharding.SILENT);

    assertThat(report.equal()).isFalse();
    assertThat(report.verdicts().stream().filter(verdict -> !verdict.equal()))
        .singleElement()
        .satisfies(
            verdict -> {
              assertThat(verdict.parameter().name()).isEqualTo("head.weight");
              assertThat(verdict.state()).isEqualTo("momentum_buffer on rank 1 of --output");
              assertThat(verdict.element()).isEqualTo(7);
            });
  }
}

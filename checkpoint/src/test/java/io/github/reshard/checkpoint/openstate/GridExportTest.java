package io.github.reshard.checkpoint.openstate;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.parallel.PipelineScript;
import io.github.reshard.checkpoint.parallel.PipelineTarget;
import io.github.reshard.checkpoint.planner.TargetDegrees;
import io.github.reshard.checkpoint.planner.TensorHints;
import io.github.reshard.testing.EditedTorchFile;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Weights and states of pipelines whose layers tensor-parallel ranks share. */
class GridExportTest {
  private static final Path GRIDS =
      Path.of(System.getProperty("reshard.testdata"), "degrees", "grid");
  private static final Path GRID = GRIDS.resolve("p2t2d1");

  /** As --targetTensorParallelSize=1 --targetPipelineParallelSize=1 --vocabularyMultiple=2. */
  private static final TargetDegrees ONE_RANK =
      new TargetDegrees(
          Optional.of(new TensorHints(1, Optional.empty(), OptionalInt.empty(), OptionalInt.of(2))),
          Optional.empty(),
          Optional.of(new PipelineTarget(1, Optional.empty(), PipelineScript.NOT_SAID)));

  @TempDir Path scratch;

  /** By way of one rank, it is the export of a run that never had more. */
  @Test
  void joinedItIsThatOfOneRank() throws Exception {
    Path joined = scratch.resolve("joined");
    WithoutBeam.reshard(GRID, joined, 1, ONE_RANK);
    Path out = scratch.resolve("out");
    WithoutBeam.toOpenState(joined, out);

    Path expected = scratch.resolve("expected");
    WithoutBeam.toOpenState(GRIDS.resolve("p1t1d3"), expected);
    for (String file : List.of("model.safetensors", "optimizer.safetensors", "optimizer.json")) {
      assertThat(Files.mismatch(out.resolve(file), expected.resolve(file))).as(file).isEqualTo(-1);
    }
  }

  @Test
  void whatToDoIsSaid() {
    assertThatThrownBy(() -> WithoutBeam.toOpenState(GRID, scratch.resolve("out")))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("Make one of them with --targetPipelineParallelSize=1");
  }

  /** A tied layer that one stage has trained otherwise is of no one model. */
  @Test
  void aStageThatDiffersIsNotJoined() {
    Path copy = scratch.resolve("copy");
    Scratch.copyOf(GRID, copy);
    EditedTorchFile file =
        new EditedTorchFile(
            copy.resolve(Scratch.TAG).resolve("bf16_zero_pp_rank_0_mp_rank_02_optim_states.pt"));
    for (ByteBuffer storage : file.storages().values()) {
      if (storage.capacity() > 500) {
        for (int at = 0; at < storage.capacity(); at += 4) {
          storage.put(at, (byte) (storage.get(at) ^ 1));
        }
      }
    }
    file.write();

    assertThatThrownBy(() -> WithoutBeam.reshard(copy, scratch.resolve("joined"), 1, ONE_RANK))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("ranks 0 and 2 share it and must hold the same exp_avg");
  }
}

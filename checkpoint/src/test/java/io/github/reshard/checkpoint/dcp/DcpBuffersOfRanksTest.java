package io.github.reshard.checkpoint.dcp;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.testing.EditedTorchFile;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Buffers of tensor-parallel ranks, each of which has all of them. */
class DcpBuffersOfRanksTest {
  @TempDir Path scratch;
  private Path source;

  @BeforeEach
  void copy() {
    source = scratch.resolve("source");
    Scratch.copyOf(
        Path.of(System.getProperty("reshard.testdata"), "tensor/columns-z1/tp2dp2"), source);
  }

  private void addBuffer(int rank, int value) {
    EditedTorchFile file =
        new EditedTorchFile(
            source.resolve(Scratch.TAG).resolve("mp_rank_0%d_model_states.pt".formatted(rank)));
    file.setStorage("900", ByteBuffer.wrap(new byte[] {1, 2, (byte) value}));
    file.root()
        .get("module")
        .entries()
        .add(new PyStr("counts"), TensorNode.create(DType.UINT8, "900", false, 3));
    ((PyList) file.root().get("buffer_names").node()).items().add(new PyStr("counts"));
    file.write();
  }

  @Test
  void theyGoOutOnce() throws IOException {
    addBuffer(0, 3);
    addBuffer(1, 3);
    Path output = scratch.resolve("dcp");

    WithoutBeam.toDcp(source, output, DcpDialect.TORCH, 1);

    DcpMetadata metadata =
        DcpDirectory.find(new LocalSourceStore(), output.resolve(Scratch.TAG).toString())
            .orElseThrow()
            .metadata();
    assertThat(metadata.tensor("model.counts").orElseThrow().shape()).isEqualTo(List.of(3L));
  }

  @Test
  void ranksWithOthersAreRefused() {
    addBuffer(0, 3);
    addBuffer(1, 4);
    assertThatThrownBy(() -> WithoutBeam.toDcp(source, scratch.resolve("dcp"), DcpDialect.TORCH, 1))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("counts");
  }

  @Test
  void aBufferOfOneRankAloneIsRefused() {
    addBuffer(1, 3);
    assertThatThrownBy(() -> WithoutBeam.toDcp(source, scratch.resolve("dcp"), DcpDialect.TORCH, 1))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("counts");
  }
}

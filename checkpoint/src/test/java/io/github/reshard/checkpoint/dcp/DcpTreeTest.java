package io.github.reshard.checkpoint.dcp;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.DType;
import java.io.IOException;
import java.util.List;
import org.junit.jupiter.api.Test;

class DcpTreeTest {
  private static final SaveId ID = new SaveId("reshard-0123456789abcdef");

  private static final long LARGE = 4_300_000_000L;

  private static Piece tensor(long elements) {
    return new Piece.OfSource(DType.INT8, List.of(elements));
  }

  /**
   * Beyond 4 GiB the sizes of an entry stand in a zip64 field of its own container; where the
   * container lies in the file is no matter of its zip. PyTorch 2.15 loaded such a file.
   */
  @Test
  void entriesBeyond4GibInContainersOfTheirOwn() throws IOException {
    DcpTree tree = new DcpTree("tag", ID);
    int large = tree.add(tensor(LARGE));
    int small = tree.add(tensor(3));
    tree.put(DcpDialect.TORCH.model("large"), large);
    tree.put(DcpDialect.TORCH.model("small"), small);

    DcpTree.Planned planned = tree.plan(5, 1);

    TargetFile data = planned.targets().get(0);
    long small3 =
        Container.ofTensor(ID.archive("__0_0.distcp"), DType.INT8, List.of(3L)).totalBytes();
    assertThat(data.bytes()).isGreaterThan(LARGE + small3);
    assertThat(planned.addresses().get(small).offset()).isGreaterThan(LARGE);
    assertThat(planned.addresses().get(small).file()).isEqualTo(5);
    assertThat(data.entries()).extracting(TargetFile.Entry::bytes).containsExactly(LARGE, 3L);
    List<ByteSegment> skeleton = data.recipe().skeleton(null, null, 5, List.of(1, 2));
    long written = skeleton.stream().mapToLong(s -> s.bytes().length).sum();
    assertThat(written + LARGE + 3).isEqualTo(data.bytes());
    TargetFile metadata = planned.targets().get(1);
    byte[] bytes = metadata.recipe().skeleton(null, null, 6, List.of()).get(0).bytes();
    DcpMetadata read = MetadataReader.read(bytes, "written");
    DcpMetadata.Place place = read.tensor("model.small").orElseThrow().chunks().get(0).place();
    assertThat(place.offset() + place.bytes()).isEqualTo(data.bytes());
    assertThat(place.bytes()).isEqualTo(small3);
  }

  @Test
  void equalObjectsShareAContainer() {
    DcpTree tree = new DcpTree("tag", ID);
    assertThat(tree.addValue(PyInt.of(7))).isEqualTo(tree.addValue(PyInt.of(7)));
    assertThat(tree.addValue(PyInt.of(7))).isNotEqualTo(tree.addValue(PyInt.of(8)));
  }

  @Test
  void aKeyThatTwoThingsWouldHaveIsRefused() {
    DcpTree tree = new DcpTree("tag", ID);
    int piece = tree.add(tensor(3));
    tree.put(DcpDialect.TORCHTITAN.model("optimizer.state.w.step"), piece);
    assertThatThrownBy(() -> tree.put(DcpDialect.TORCHTITAN.state("w", "step"), piece))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("would have the key 'optimizer.state.w.step'");
  }
}

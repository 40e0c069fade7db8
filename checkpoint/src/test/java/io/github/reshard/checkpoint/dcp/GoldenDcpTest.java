package io.github.reshard.checkpoint.dcp;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Step;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import java.util.zip.CRC32;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** What PyTorch wrote is read as PyTorch reads it; testdata/dcp says how it was made. */
class GoldenDcpTest {
  private static final Path NESTED = Goldens.ROOT.resolve("torch-2.9.1/nested");
  private static final Path FLAT = Goldens.ROOT.resolve("torch-2.9.1/flat");

  static Stream<Path> checkpoints() {
    return Goldens.all();
  }

  /** Those that hold what dcp_goldens.py says. */
  static Stream<Path> known() {
    return Goldens.all().filter(directory -> !directory.getParent().endsWith("fsdp2"));
  }

  @Test
  void readsTensorsOfEachShapeInTheirOrder() throws IOException {
    DcpMetadata metadata = Goldens.read(NESTED).metadata();

    assertThat(metadata.tensor("model.emb.weight").orElseThrow().shape()).containsExactly(7L, 5L);
    assertThat(metadata.tensor("model.emb.weight").orElseThrow().chunks())
        .extracting(Chunk::offsets)
        .containsExactly(List.of(0L, 0L), List.of(3L, 0L), List.of(6L, 0L));
    assertThat(metadata.tensor("model.one").orElseThrow().chunks()).hasSize(1);
    assertThat(metadata.tensor("model.scale").orElseThrow().shape()).isEmpty();
    assertThat(metadata.value("optim.param_groups.0.params")).isPresent();
    assertThat(metadata.paths())
        .containsEntry(
            "optim.state.fc.bias.exp_avg", Step.keys("optim", "state", "fc.bias", "exp_avg"))
        .containsEntry(
            "optim.param_groups.1.lr",
            List.of(
                new Step.Key("optim"),
                new Step.Key("param_groups"),
                new Step.Index(1),
                new Step.Key("lr")));
    assertThat(Goldens.read(FLAT).metadata().paths())
        .containsEntry("optim.state.fc.bias.exp_avg", Step.keys("optim", "state.fc.bias.exp_avg"));
  }

  @Test
  void readsObjects() throws IOException {
    try (DcpDirectory.Reading reading = Goldens.read(NESTED).open(new LocalSourceStore())) {
      assertThat(((PyInt) reading.value("step").orElseThrow()).value().intValue()).isEqualTo(7);
      assertThat(((PyFloat) reading.value("optim.param_groups.1.lr").orElseThrow()).value())
          .isEqualTo(2e-2);
      PyList params = (PyList) reading.value("optim.param_groups.1.params").orElseThrow();
      assertThat(params.items().stream().map(name -> ((PyStr) name).value()))
          .containsExactly("fc.bias", "one");
      assertThat(reading.value("no such key")).isEmpty();
    }
  }

  @ParameterizedTest
  @MethodSource("known")
  void readsEveryElementOfEveryChunkWithItsCrc(Path directory) throws IOException {
    DcpDirectory dcp = Goldens.read(directory);
    int tensors = 0;
    for (var item : dcp.metadata().items().entrySet()) {
      if (item.getValue() instanceof DcpMetadata.Tensor tensor) {
        float[] values = values(dcp, directory, item.getKey(), tensor);
        float[] expected = expected(item.getKey(), values.length);
        assertThat(values).as(item.getKey()).containsExactly(expected);
        tensors++;
      }
    }
    assertThat(tensors).isGreaterThanOrEqualTo(2);
  }

  private static final Map<String, Integer> NUMBERS =
      Map.of("one", 0, "emb.weight", 1, "tied.weight", 1, "fc.weight", 2, "fc.bias", 3);

  private static float[] expected(String key, int elements) {
    float first = 0;
    for (var number : NUMBERS.entrySet()) {
      if (key.contains("." + number.getKey())) {
        first = 100 * number.getValue();
      }
    }
    first += key.endsWith(".exp_avg") ? 0.25f : key.endsWith(".exp_avg_sq") ? 0.5f : 0;
    first = key.endsWith(".step") ? 7 : key.endsWith(".scale") ? 1.5f : first;
    float[] expected = new float[elements];
    for (int e = 0; e < elements; e++) {
      expected[e] = first + e;
    }
    return expected;
  }

  private static float[] values(
      DcpDirectory dcp, Path directory, String key, DcpMetadata.Tensor tensor) throws IOException {
    float[] full = new float[Math.toIntExact(Chunk.elements(tensor.shape()))];
    try (DcpDirectory.Reading reading = dcp.open(new LocalSourceStore())) {
      for (Chunk chunk : tensor.chunks()) {
        TorchFile file = reading.container(key, chunk.place());
        TorchFile.Entry entry = Container.entryOf(file, tensor.dtype(), chunk);
        byte[] bytes = new byte[Math.toIntExact(entry.bytes())];
        ByteBuffer.wrap(Files.readAllBytes(directory.resolve(chunk.place().file())))
            .position((int) (chunk.place().offset() + entry.payloadOffset()))
            .get(bytes);
        CRC32 crc = new CRC32();
        crc.update(bytes);
        assertThat((int) crc.getValue()).isEqualTo(entry.crc32());
        ByteBuffer in = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        for (int e = 0; e < chunk.elements(); e++) {
          full[position(tensor.shape(), chunk, e)] =
              tensor.dtype() == DType.BFLOAT16
                  ? Float.intBitsToFloat(in.getShort() << 16)
                  : in.getFloat();
        }
      }
    }
    return full;
  }

  private static int position(List<Long> shape, Chunk chunk, int element) {
    long position = 0;
    long stride = 1;
    long rest = element;
    for (int d = shape.size() - 1; d >= 0; d--) {
      position += (chunk.offsets().get(d) + rest % chunk.sizes().get(d)) * stride;
      rest /= chunk.sizes().get(d);
      stride *= shape.get(d);
    }
    return (int) position;
  }

  @ParameterizedTest
  @MethodSource("checkpoints")
  void whatIsWrittenIsReadAsTheSame(Path directory) {
    DcpMetadata metadata = MetadataReader.read(Goldens.metadata(directory), "golden");

    byte[] written = MetadataWriter.write(metadata);

    assertThat(written).startsWith((byte) 0x80, (byte) 2);
    DcpMetadata read = MetadataReader.read(written, "written");
    assertThat(read).isEqualTo(metadata);
    assertThat(List.copyOf(read.items().keySet()))
        .isEqualTo(List.copyOf(metadata.items().keySet()));
    assertThat(List.copyOf(read.paths().keySet()))
        .isEqualTo(List.copyOf(metadata.paths().keySet()));
  }

  /** Byte for byte what PyTorch 2.6 writes, but for the hash that identifies it. */
  @Test
  void containersAreThoseOfPyTorch() throws IOException {
    Path directory = Goldens.ROOT.resolve("torch-2.6.0/nested");
    DcpDirectory dcp = Goldens.read(directory);
    try (DcpDirectory.Reading reading = dcp.open(new LocalSourceStore())) {
      for (var item : dcp.metadata().items().entrySet()) {
        if (item.getValue() instanceof DcpMetadata.Tensor tensor) {
          for (Chunk chunk : tensor.chunks()) {
            TorchFile file = reading.container(item.getKey(), chunk.place());
            requireSame(
                directory,
                chunk.place(),
                Container.ofTensor("archive", tensor.dtype(), chunk.sizes()),
                file);
          }
        } else {
          DcpMetadata.Place place = ((DcpMetadata.Value) item.getValue()).place();
          TorchFile file = reading.container(item.getKey(), place);
          requireSame(
              directory,
              place,
              Container.ofPickle("archive", PickleWriter.write(file.parse().root(), 2)),
              file);
        }
      }
    }
  }

  private static void requireSame(
      Path directory, DcpMetadata.Place place, TorchFileLayout layout, TorchFile file)
      throws IOException {
    byte[] whole = Files.readAllBytes(directory.resolve(place.file()));
    byte[] expected = new byte[Math.toIntExact(place.bytes())];
    System.arraycopy(whole, (int) place.offset(), expected, 0, expected.length);
    byte[] made = expected.clone();
    Map<String, Integer> crcs =
        file.storage("0").map(entry -> Map.of("0", entry.crc32())).orElse(Map.of());
    for (ByteSegment segment : layout.segments(crcs)) {
      System.arraycopy(segment.bytes(), 0, made, (int) segment.offset(), segment.bytes().length);
    }
    assertThat(layout.totalBytes()).isEqualTo(place.bytes());
    int differences = 0;
    for (int b = 0; b < made.length; b++) {
      differences += made[b] == expected[b] ? 0 : 1;
    }
    // 40 digits, and two CRCs of them.
    assertThat(differences).isLessThanOrEqualTo(48);
  }
}

package io.github.reshard.checkpoint.dcp;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Item;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Place;
import io.github.reshard.checkpoint.pickle.PickleReader;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Damage that {@code .metadata} and data files may have, each refused by its name. */
class HostileDcpTest {
  private static final Path GOLDEN = Goldens.ROOT.resolve("torch-2.9.1/nested");
  private static final String KEY = "model.emb.weight";

  @TempDir Path copy;

  @BeforeEach
  void copyGolden() throws IOException {
    Files.copy(GOLDEN.resolve(DcpMetadata.FILE_NAME), copy.resolve(DcpMetadata.FILE_NAME));
    for (Path file : Goldens.dataFiles(GOLDEN)) {
      Files.copy(file, copy.resolve(file.getFileName()));
    }
  }

  private void refuses(String... words) {
    assertThatThrownBy(() -> Goldens.read(copy))
        .isInstanceOf(RefusedException.class)
        .message()
        .contains(words);
  }

  /** Edits the graph of {@code .metadata}. */
  private void edit(Consumer<PyEntries> edit) throws IOException {
    Path file = copy.resolve(DcpMetadata.FILE_NAME);
    PyObject root = PickleReader.read(Files.readAllBytes(file), "golden").root();
    edit.accept(fields(root));
    Files.write(file, PickleWriter.write(root, 4));
  }

  private static PyEntries fields(PyObject made) {
    return ((PyDict) ((PyInstance) made).state()).entries();
  }

  private static PyInstance item(PyEntries metadata, String key) {
    return (PyInstance) ((PyDict) metadata.get(Names.STATE_DICT_METADATA)).get(key);
  }

  private static PyEntries place(PyEntries metadata, String key, int chunk) {
    int found = 0;
    for (PyEntries.Entry entry : ((PyDict) metadata.get(Names.STORAGE_DATA)).entries()) {
      if (((PyStr) fields(entry.key()).get(Names.FQN)).value().equals(key) && found++ == chunk) {
        return fields(entry.value());
      }
    }
    throw new AssertionError(key);
  }

  private static PyObject size(long... sizes) {
    List<PyObject> numbers = new ArrayList<>();
    for (long size : sizes) {
      numbers.add(PyInt.of(size));
    }
    return PyInstance.reduce(new PyGlobal("torch", "Size"), PyTuple.of(new PyTuple(numbers)));
  }

  @Test
  void theGoldenItselfIsFine() throws IOException {
    assertThat(Goldens.read(copy).files()).hasSize(3);
  }

  @Test
  void sixItemsAreReadAsNewerPyTorchWritesThem() throws IOException {
    edit(
        metadata -> {
          PyInstance properties =
              (PyInstance) fields(item(metadata, KEY)).get(Names.PROPERTIES_FIELD);
          List<PyObject> items = new ArrayList<>(((PyTuple) properties.state()).items());
          items.add(PyTuple.of(PyInt.of(5), PyInt.of(1)));
          properties.setState(new PyTuple(items));
        });
    assertThat(Goldens.read(copy).metadata().tensor(KEY).orElseThrow().dtype())
        .isEqualTo(DType.FLOAT32);
    edit(
        metadata -> {
          PyInstance properties =
              (PyInstance) fields(item(metadata, KEY)).get(Names.PROPERTIES_FIELD);
          List<PyObject> items = new ArrayList<>(((PyTuple) properties.state()).items());
          items.add(PyInt.of(1));
          properties.setState(new PyTuple(items));
        });
    refuses(".metadata", KEY, "TensorProperties with 5 or 6 items");
  }

  @Test
  void aVersionThatIsNotKnown() throws IOException {
    edit(metadata -> metadata.add(new PyStr(Names.VERSION), new PyStr("2.0.0")));
    refuses("expected version 1.0.0, found 2.0.0");
  }

  @Test
  void anotherClass() throws IOException {
    edit(
        metadata ->
            ((PyDict) metadata.get(Names.STATE_DICT_METADATA))
                .entries()
                .replace(
                    KEY,
                    PyInstance.reduce(
                        new PyGlobal("os", "system"), PyTuple.of(new PyStr("true")))));
    refuses(
        KEY,
        "expected torch.distributed.checkpoint.metadata.TensorStorageMetadata",
        "found an object made by os.system");
  }

  @Test
  void compressedStorage() throws IOException {
    edit(
        metadata ->
            place(metadata, KEY, 0)
                .add(new PyStr(Names.TRANSFORMS), PyList.of(List.of(new PyStr("zstd")))));
    refuses(KEY, "compressed", Names.TRANSFORMS);
  }

  @Test
  void aFileElsewhere() throws IOException {
    for (String path : List.of("../secret", "/etc/passwd", "a/b", "", "..")) {
      edit(metadata -> place(metadata, KEY, 0).replace(Names.PATH, new PyStr(path)));
      refuses(KEY, "lies in '" + path + "'");
    }
  }

  @Test
  void placesOutsideOfTheFile() throws IOException {
    edit(metadata -> place(metadata, KEY, 0).replace(Names.OFFSET, PyInt.of(1L << 40)));
    refuses(KEY, "__0_0.distcp at byte 1099511627776", "that file has");
  }

  @Test
  void placesThatAreNoNumbers() throws IOException {
    edit(metadata -> place(metadata, KEY, 0).replace(Names.LENGTH, PyInt.of(-1)));
    refuses(KEY, Names.LENGTH, "expected a number from 0");
  }

  @Test
  void aPlaceThatOverflows() throws IOException {
    edit(metadata -> place(metadata, KEY, 0).replace(Names.OFFSET, PyInt.of(Long.MAX_VALUE)));
    refuses(KEY, "which is no place");
  }

  @Test
  void aHole() throws IOException {
    edit(
        metadata ->
            ((PyList) fields(item(metadata, KEY)).get(Names.CHUNKS_FIELD)).items().remove(1));
    refuses(KEY, "15 elements are missing, the first at [3, 0]");
  }

  @Test
  void anOverlap() throws IOException {
    edit(
        metadata -> {
          PyList chunks = (PyList) fields(item(metadata, KEY)).get(Names.CHUNKS_FIELD);
          fields(chunks.get(0)).replace(Names.SIZES, size(4, 5));
        });
    refuses(KEY, "the chunks at [0, 0] and at [3, 0] overlap");
  }

  @Test
  void aChunkWithoutAPlace() throws IOException {
    edit(
        metadata -> {
          List<PyEntries.Entry> places =
              ((PyDict) metadata.get(Names.STORAGE_DATA)).entries().list();
          places.removeIf(
              e -> ((PyStr) fields(e.key()).get(Names.FQN)).value().equals("model.fc.bias"));
        });
    refuses("the chunk of 'model.fc.bias' at [0] has no place");
  }

  @Test
  void aPlaceWithoutAKey() throws IOException {
    edit(
        metadata ->
            ((PyDict) metadata.get(Names.STATE_DICT_METADATA))
                .entries()
                .list()
                .removeIf(e -> ((PyStr) e.key()).value().equals(KEY)));
    refuses("storage_data places '" + KEY + "'");
  }

  @Test
  void sizesThatOverflow() throws IOException {
    edit(
        metadata ->
            fields(item(metadata, KEY))
                .replace(Names.SIZE_FIELD, size(Long.MAX_VALUE, Long.MAX_VALUE)));
    refuses(KEY, "more than 2^63 elements");
  }

  @Test
  void aSaveThatDidNotEnd() throws IOException {
    Files.delete(copy.resolve(DcpMetadata.FILE_NAME));
    refuses("no .metadata, which is written last");
    Files.createFile(copy.resolve(".metadata.tmp"));
    refuses(".metadata.tmp");
  }

  @Test
  void aFileThatIsMissing() throws IOException {
    Files.delete(copy.resolve("__1_0.distcp"));
    refuses("lies in __1_0.distcp", "there is no such file");
  }

  @Test
  void aContainerOfAnotherTensor() throws IOException {
    DcpDirectory dcp = Goldens.read(copy);
    Map<String, Item> items = new LinkedHashMap<>(dcp.metadata().items());
    DcpMetadata.Tensor tensor = dcp.metadata().tensor(KEY).orElseThrow();
    Map<String, DcpMetadata.Tensor> wrong = new HashMap<>();
    wrong.put("type", new DcpMetadata.Tensor(DType.INT32, tensor.shape(), tensor.chunks()));
    wrong.put(
        "sizes",
        new DcpMetadata.Tensor(
            tensor.dtype(),
            List.of(15L),
            List.of(new Chunk(List.of(0L), List.of(15L), tensor.chunks().get(0).place()))));
    for (DcpMetadata.Tensor other : wrong.values()) {
      items.put(KEY, other);
      DcpDirectory changed =
          new DcpDirectory(
              dcp.path(),
              dcp.metadataFile(),
              new DcpMetadata(items, dcp.metadata().paths(), dcp.metadata().saveId()),
              dcp.files());
      try (DcpDirectory.Reading reading = changed.open(new LocalSourceStore())) {
        Chunk chunk = other.chunks().get(0);
        TorchFile file = reading.container(KEY, chunk.place());
        assertThatThrownBy(() -> Container.entryOf(file, other.dtype(), chunk))
            .isInstanceOf(RefusedException.class)
            .hasMessageContaining("as .metadata says, found float32 of [3, 5]")
            .hasMessageContaining(KEY);
      }
    }
  }

  @Test
  void aContainerThatIsNone() throws IOException {
    DcpDirectory dcp = Goldens.read(copy);
    Place place = dcp.metadata().tensor(KEY).orElseThrow().chunks().get(0).place();
    try (DcpDirectory.Reading reading = dcp.open(new LocalSourceStore())) {
      assertThatThrownBy(
              () ->
                  reading.container(
                      KEY, new Place(place.file(), place.offset() + 1, place.bytes() - 1)))
          .isInstanceOf(RefusedException.class)
          .hasMessageContaining(KEY);
      assertThatThrownBy(
              () ->
                  reading.container(
                      KEY, new Place(place.file(), place.offset(), place.bytes() - 1)))
          .isInstanceOf(RefusedException.class);
    }
  }
}

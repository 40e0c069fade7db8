package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Item;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Place;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Step;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.torch.DType;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Writes {@code .metadata} so that every PyTorch from 2.6 on reads it: protocol 2, and {@code
 * TensorProperties} of five items, because 2.6 refuses the sixth that later ones write and these
 * read five.
 */
final class MetadataWriter {
  private static final int PROTOCOL = 2;

  private final Map<String, PyStr> texts = new HashMap<>();
  private final Map<DType, PyObject> properties = new HashMap<>();

  private MetadataWriter() {}

  /** The bytes of a {@code .metadata} that says {@code metadata}. */
  static byte[] write(DcpMetadata metadata) {
    return PickleWriter.write(new MetadataWriter().root(metadata), PROTOCOL);
  }

  private PyObject root(DcpMetadata metadata) {
    PyDict items = new PyDict();
    PyDict places = new PyDict();
    metadata
        .items()
        .forEach(
            (key, item) -> {
              items.entries().add(text(key), item(item));
              addPlaces(key, item, places);
            });
    PyDict paths = new PyDict();
    metadata
        .paths()
        .forEach(
            (key, steps) ->
                paths
                    .entries()
                    .add(text(key), new PyTuple(steps.stream().map(this::step).toList())));
    return made(
        Names.METADATA_MODULE,
        Names.METADATA,
        Names.STATE_DICT_METADATA,
        items,
        Names.PLANNER_DATA,
        paths,
        Names.STORAGE_DATA,
        places,
        Names.STORAGE_META,
        made(
            Names.METADATA_MODULE,
            Names.STORAGE_META_CLASS,
            "checkpoint_id",
            PyNone.NONE,
            Names.SAVE_ID,
            metadata.saveId().isEmpty() ? PyNone.NONE : text(metadata.saveId()),
            "load_id",
            PyNone.NONE,
            "modules",
            new PyList()));
  }

  private PyObject step(Step step) {
    return step instanceof Step.Index index
        ? PyInt.of(index.position())
        : text(((Step.Key) step).name());
  }

  private PyObject item(Item item) {
    if (!(item instanceof DcpMetadata.Tensor tensor)) {
      return made(Names.METADATA_MODULE, Names.BYTES);
    }
    PyList chunks = new PyList();
    for (Chunk chunk : tensor.chunks()) {
      chunks
          .items()
          .add(
              made(
                  Names.METADATA_MODULE,
                  Names.CHUNK,
                  Names.OFFSETS,
                  size(chunk.offsets()),
                  Names.SIZES,
                  size(chunk.sizes())));
    }
    return made(
        Names.METADATA_MODULE,
        Names.TENSOR,
        Names.PROPERTIES_FIELD,
        properties.computeIfAbsent(tensor.dtype(), MetadataWriter::properties),
        Names.SIZE_FIELD,
        size(tensor.shape()),
        Names.CHUNKS_FIELD,
        chunks);
  }

  private static PyObject properties(DType dtype) {
    return PyInstance.newObject(
        Names.metadata(Names.PROPERTIES),
        PyTuple.of(
            new PyGlobal(Names.TORCH, dtype.torchName()),
            PyInstance.reduce(
                new PyGlobal(Names.SERIALIZATION_MODULE, Names.LAYOUT),
                PyTuple.of(new PyStr(Names.STRIDED))),
            PyBool.FALSE,
            PyInstance.reduce(
                Names.metadata(Names.MEMORY_FORMAT), PyTuple.of(PyInt.of(Names.CONTIGUOUS))),
            PyBool.FALSE));
  }

  private void addPlaces(String key, Item item, PyDict places) {
    if (item instanceof DcpMetadata.Value value) {
      PyInstance index =
          made(
              Names.METADATA_MODULE,
              Names.INDEX,
              Names.FQN,
              text(key),
              Names.INDEX_FIELD,
              PyNone.NONE);
      places.entries().add(index, place(value.place()));
      return;
    }
    List<Chunk> chunks = ((DcpMetadata.Tensor) item).chunks();
    for (int c = 0; c < chunks.size(); c++) {
      Chunk chunk = chunks.get(c);
      PyInstance index =
          made(
              Names.METADATA_MODULE,
              Names.INDEX,
              Names.FQN,
              text(key),
              Names.INDEX_FIELD,
              PyInt.of(c),
              Names.OFFSET,
              size(chunk.offsets()));
      places.entries().add(index, place(chunk.place()));
    }
  }

  private PyObject place(Place place) {
    return made(
        Names.FILES_MODULE,
        Names.STORAGE_INFO,
        Names.PATH,
        text(place.file()),
        Names.OFFSET,
        PyInt.of(place.offset()),
        Names.LENGTH,
        PyInt.of(place.bytes()));
  }

  /** One object a text, as CPython has it for names that come up again. */
  private PyStr text(String text) {
    return texts.computeIfAbsent(text, PyStr::new);
  }

  private static PyObject size(List<Long> sizes) {
    List<PyObject> numbers = new ArrayList<>();
    sizes.forEach(size -> numbers.add(PyInt.of(size)));
    return PyInstance.reduce(
        new PyGlobal(Names.TORCH, Names.SIZE), PyTuple.of(new PyTuple(numbers)));
  }

  private PyInstance made(String module, String name, Object... fields) {
    PyDict state = new PyDict();
    for (int f = 0; f < fields.length; f += 2) {
      state.entries().add(text((String) fields[f]), (PyObject) fields[f + 1]);
    }
    return PyInstance.newObject(new PyGlobal(module, name), state);
  }
}

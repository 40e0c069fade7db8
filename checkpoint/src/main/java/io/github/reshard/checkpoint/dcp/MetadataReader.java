package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Item;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Place;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Step;
import io.github.reshard.checkpoint.pickle.PickleReader;
import io.github.reshard.checkpoint.pickle.PyBytes;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
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
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * Reads {@code .metadata} as a graph of names, without running anything. What is not understood is
 * refused: a class by another name, a field of another type, a chunk that lies nowhere, chunks that
 * leave a hole or overlap.
 */
public final class MetadataReader {
  private static final String SUPPORTED_VERSION = "1.0.0";

  private final String path;
  private final Map<String, Map<List<Long>, Place>> boxes = new HashMap<>();
  private final Map<String, Place> values = new HashMap<>();

  private MetadataReader(String path) {
    this.path = path;
  }

  /**
   * Reads the bytes of a {@code .metadata}.
   *
   * @param path of the file, for messages
   * @throws RefusedException if it is none, or says what is not understood
   */
  public static DcpMetadata read(byte[] bytes, String path) {
    return new MetadataReader(path).read(PickleReader.read(bytes, path).root());
  }

  private DcpMetadata read(PyObject root) {
    PyEntries fields = fields(root, Names.METADATA_MODULE, Names.METADATA, "the object");
    requireVersion(fields.get(Names.VERSION));
    readPlaces(required(fields, Names.STORAGE_DATA, ""));
    Map<String, Item> items = new LinkedHashMap<>();
    for (PyEntries.Entry entry :
        dict(required(fields, Names.STATE_DICT_METADATA, ""), Names.STATE_DICT_METADATA)) {
      String key = text(entry.key(), "a key of " + Names.STATE_DICT_METADATA);
      if (items.put(key, item(key, entry.value())) != null) {
        throw refused("the key '%s' is there twice in %s", key, Names.STATE_DICT_METADATA);
      }
    }
    for (String key : boxes.keySet()) {
      if (!items.containsKey(key)) {
        throw refused(
            "%s places '%s', which %s does not list",
            Names.STORAGE_DATA, key, Names.STATE_DICT_METADATA);
      }
    }
    return new DcpMetadata(
        items,
        paths(fields.get(Names.PLANNER_DATA), items),
        saveId(fields.get(Names.STORAGE_META)));
  }

  private String saveId(PyObject meta) {
    if (meta == null || meta == PyNone.NONE) {
      return "";
    }
    PyObject id =
        fields(meta, Names.METADATA_MODULE, Names.STORAGE_META_CLASS, Names.STORAGE_META)
            .get(Names.SAVE_ID);
    return id == null || id == PyNone.NONE ? "" : text(id, Names.SAVE_ID);
  }

  private void requireVersion(PyObject version) {
    if (version != null
        && version != PyNone.NONE
        && !text(version, Names.VERSION).equals(SUPPORTED_VERSION)) {
      throw refused(
          "expected version %s, found %s. Save it with a PyTorch that writes that one",
          SUPPORTED_VERSION, text(version, Names.VERSION));
    }
  }

  private void readPlaces(PyObject storage) {
    for (PyEntries.Entry entry : dict(storage, Names.STORAGE_DATA)) {
      PyEntries index =
          fields(entry.key(), Names.METADATA_MODULE, Names.INDEX, "a key of " + Names.STORAGE_DATA);
      String key = text(required(index, Names.FQN, ""), Names.FQN);
      Place place = place(key, entry.value());
      // Objects have none; its constructor leaves out what is None.
      PyObject offset = index.get(Names.OFFSET);
      Place other =
          offset == null || offset == PyNone.NONE
              ? values.put(key, place)
              : boxes
                  .computeIfAbsent(key, any -> new HashMap<>())
                  .put(size(offset, key, Names.OFFSET), place);
      if (other != null) {
        throw refused("'%s' has two places for one chunk: %s and %s", key, other, place);
      }
    }
  }

  private Place place(String key, PyObject info) {
    PyEntries fields = fields(info, Names.FILES_MODULE, Names.STORAGE_INFO, "the place of " + key);
    PyObject transforms = fields.get(Names.TRANSFORMS);
    boolean plain =
        transforms == null
            || transforms == PyNone.NONE
            || (transforms instanceof PyList list && list.size() == 0)
            || (transforms instanceof PyTuple tuple && tuple.size() == 0);
    if (!plain) {
      throw refused(
          "'%s' is stored compressed or otherwise transformed (%s). Save it without extensions of"
              + " the FileSystemWriter",
          key, Names.TRANSFORMS);
    }
    String file = text(required(fields, Names.PATH, key), Names.PATH);
    if (file.isEmpty()
        || file.contains("/")
        || file.contains("\\")
        || file.startsWith("..")
        || file.equals(".")) {
      throw refused(
          "'%s' lies in '%s', expected the name of a file beside %s",
          key, file, DcpMetadata.FILE_NAME);
    }
    long offset = number(required(fields, Names.OFFSET, key), key, Names.OFFSET);
    long length = number(required(fields, Names.LENGTH, key), key, Names.LENGTH);
    if (length == 0 || offset > Long.MAX_VALUE - length) {
      throw refused(
          "'%s' lies at byte %d of %s with %d bytes, which is no place", key, offset, file, length);
    }
    return new Place(file, offset, length);
  }

  private Item item(String key, PyObject node) {
    if (node instanceof PyInstance made && made.isOf(Names.METADATA_MODULE, Names.BYTES)) {
      Place place = values.get(key);
      if (place == null || boxes.containsKey(key)) {
        throw refused(
            "the object '%s' has %s in %s. The checkpoint is not whole",
            key, place == null ? "no place" : "the place of a chunk", Names.STORAGE_DATA);
      }
      return new DcpMetadata.Value(place);
    }
    PyEntries fields = fields(node, Names.METADATA_MODULE, Names.TENSOR, "'" + key + "'");
    if (values.containsKey(key)) {
      throw refused("the tensor '%s' has the place of an object in %s", key, Names.STORAGE_DATA);
    }
    List<Long> shape = size(required(fields, Names.SIZE_FIELD, key), key, Names.SIZE_FIELD);
    List<Chunk> chunks = new ArrayList<>();
    Map<List<Long>, Place> places = boxes.getOrDefault(key, Map.of());
    for (PyObject chunk : items(required(fields, Names.CHUNKS_FIELD, key), key)) {
      PyEntries box = fields(chunk, Names.METADATA_MODULE, Names.CHUNK, "a chunk of '" + key + "'");
      List<Long> offsets = size(required(box, Names.OFFSETS, key), key, Names.OFFSETS);
      List<Long> sizes = size(required(box, Names.SIZES, key), key, Names.SIZES);
      if (elements(sizes, key) == 0) {
        continue;
      }
      Place place = places.get(offsets);
      if (place == null) {
        throw refused(
            "the chunk of '%s' at %s has no place in %s. The checkpoint is not whole",
            key, offsets, Names.STORAGE_DATA);
      }
      chunks.add(new Chunk(offsets, sizes, place));
    }
    elements(shape, key);
    Optional<String> defect = Tiling.defect(shape, chunks);
    if (defect.isPresent()) {
      throw refused(
          "the chunks of '%s' of shape %s do not hold each element once: %s",
          key, shape, defect.get());
    }
    return new DcpMetadata.Tensor(
        dtype(required(fields, Names.PROPERTIES_FIELD, key), key), shape, chunks);
  }

  private long elements(List<Long> sizes, String key) {
    try {
      return Chunk.elements(sizes);
    } catch (ArithmeticException e) {
      throw refused("'%s' has sizes %s, which are more than 2^63 elements", key, sizes);
    }
  }

  private DType dtype(PyObject properties, String key) {
    if (!(properties instanceof PyInstance made)
        || !made.isOf(Names.METADATA_MODULE, Names.PROPERTIES)
        || !(made.state() instanceof PyTuple state)
        || state.size() < Names.PROPERTIES_ITEMS
        || state.size() > Names.PROPERTIES_ITEMS + 1) {
      throw refused(
          "'%s': expected %s with %d or %d items, found something else",
          key, Names.PROPERTIES, Names.PROPERTIES_ITEMS, Names.PROPERTIES_ITEMS + 1);
    }
    if (!(state.get(0) instanceof PyGlobal type) || !type.module().equals(Names.TORCH)) {
      throw refused(
          "'%s': expected an element type such as torch.float32, found something else", key);
    }
    if (!(state.get(1) instanceof PyInstance layout)
        || !layout.isOf(Names.SERIALIZATION_MODULE, Names.LAYOUT)
        || !(layout.args() instanceof PyTuple args)
        || args.size() != 1
        || !(args.get(0) instanceof PyStr name)
        || !name.value().equals(Names.STRIDED)) {
      throw refused(
          "'%s': expected the layout %s, found another. Only dense tensors are read",
          key, Names.STRIDED);
    }
    return DType.ofTorchName(type.name())
        .orElseThrow(() -> refused("'%s': the element type %s is not supported", key, type));
  }

  private Map<String, List<Step>> paths(PyObject node, Map<String, Item> items) {
    Map<String, List<Step>> paths = new LinkedHashMap<>();
    if (node == null || node == PyNone.NONE) {
      return paths;
    }
    for (PyEntries.Entry entry : dict(node, Names.PLANNER_DATA)) {
      String key = text(entry.key(), "a key of " + Names.PLANNER_DATA);
      List<Step> steps = new ArrayList<>();
      if (!(entry.value() instanceof PyTuple path)) {
        throw refused("'%s': expected a path in %s, found something else", key, Names.PLANNER_DATA);
      }
      for (PyObject step : path.items()) {
        steps.add(
            step instanceof PyInt
                ? new Step.Index(number(step, key, Names.PLANNER_DATA))
                : new Step.Key(text(step, Names.PLANNER_DATA)));
      }
      if (items.containsKey(key)) {
        paths.put(key, steps);
      }
    }
    return paths;
  }

  private PyEntries fields(PyObject node, String module, String name, String what) {
    if (node instanceof PyInstance made && made.isOf(module, name)) {
      if (made.state() instanceof PyDict state) {
        return state.entries();
      }
      throw refused("%s: %s without its fields", what, name);
    }
    throw refused("%s: expected %s.%s, found %s", what, module, name, describe(node));
  }

  private static String describe(PyObject node) {
    return node instanceof PyInstance made && made.callable() instanceof PyGlobal global
        ? "an object made by " + global
        : node instanceof PyBytes ? "bytes" : "something else";
  }

  private PyEntries dict(PyObject node, String what) {
    if (node instanceof PyDict dict) {
      return dict.entries();
    }
    throw refused("%s: expected a dict, found %s", what, describe(node));
  }

  private PyObject required(PyEntries fields, String name, String key) {
    PyObject value = fields.get(name);
    if (value == null) {
      throw refused(
          "expected a field '%s'%s, found none", name, key.isEmpty() ? "" : " of '" + key + "'");
    }
    return value;
  }

  private List<PyObject> items(PyObject node, String key) {
    if (node instanceof PyList list) {
      return list.items();
    }
    throw refused("'%s': expected a list of chunks, found %s", key, describe(node));
  }

  private List<Long> size(PyObject node, String key, String field) {
    if (node instanceof PyInstance made
        && made.isOf(Names.TORCH, Names.SIZE)
        && made.args() instanceof PyTuple args
        && args.size() == 1
        && args.get(0) instanceof PyTuple numbers) {
      List<Long> sizes = new ArrayList<>();
      for (PyObject number : numbers.items()) {
        sizes.add(number(number, key, field));
      }
      return sizes;
    }
    throw refused("'%s', %s: expected a torch.Size, found %s", key, field, describe(node));
  }

  private long number(PyObject node, String key, String field) {
    if (node instanceof PyInt number
        && number.value().signum() >= 0
        && number.value().bitLength() < Long.SIZE) {
      return number.value().longValue();
    }
    throw refused(
        "'%s', %s: expected a number from 0 to 2^63 - 1, found something else", key, field);
  }

  private String text(PyObject node, String what) {
    if (node instanceof PyStr text) {
      return text.value();
    }
    throw refused("%s: expected a text, found %s", what, describe(node));
  }

  @SuppressWarnings("AnnotateFormatMethod") // Its annotation would be a dependency at run time.
  private RefusedException refused(String problem, Object... args) {
    return new RefusedException(path, problem.formatted(args) + ".");
  }
}

package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.pickle.PickleReader;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.ContainerStyle;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.StorageSize;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * A ZeRO-3 checkpoint of any size in which the files of all ranks are the same, so that it exists
 * as two headers whose storages nobody reads.
 */
public final class UniformCheckpoint implements SourceStore {
  private static final long serialVersionUID = 1L;
  private static final int ELEMENTS = 700_001;
  private static final PyGlobal ORDERED_DICT = new PyGlobal("collections", "OrderedDict");
  private static final PyGlobal REBUILD = new PyGlobal("torch._utils", "_rebuild_tensor_v2");
  private static final PyGlobal STORAGE = new PyGlobal("torch", "FloatStorage");
  private static final PyGlobal SIZE = new PyGlobal("torch", "Size");
  private static final PyStr CPU = new PyStr("cpu");

  private final int ranks;
  private final transient Header model;
  private final transient Header optimizer;

  /** A checkpoint of {@code parameters} parameters of 700,001 elements on {@code ranks} ranks. */
  UniformCheckpoint(int parameters, int ranks) {
    this.ranks = ranks;
    this.model = new Header(modelStates(parameters, ranks), modelStorages(parameters));
    this.optimizer = optimizer(parameters, ranks);
  }

  /** How many elements of each parameter a rank holds. */
  private static int piece(int ranks) {
    return (ELEMENTS + ranks - 1) / ranks;
  }

  private static PyInstance tensor(PyObject key, long elements) {
    return PyInstance.reduce(
        REBUILD,
        PyTuple.of(
            StorageNode.create(STORAGE, (PyStr) key, CPU, elements),
            PyInt.of(0),
            PyTuple.of(PyInt.of(elements)),
            PyTuple.of(PyInt.of(1)),
            PyBool.FALSE,
            orderedDict()));
  }

  private static PyInstance orderedDict() {
    return PyInstance.reduce(ORDERED_DICT, PyTuple.of());
  }

  private static PyDict dict(Object... keysAndValues) {
    PyDict dict = new PyDict();
    for (int i = 0; i < keysAndValues.length; i += 2) {
      PyObject key =
          keysAndValues[i] instanceof String text
              ? new PyStr(text)
              : PyInt.of((Integer) keysAndValues[i]);
      dict.entries().add(key, (PyObject) keysAndValues[i + 1]);
    }
    return dict;
  }

  /** The pickle of a model file. */
  public static PyDict modelStates(int parameters, int ranks) {
    PyInstance module = orderedDict();
    PyInstance shapes = orderedDict();
    for (int p = 0; p < parameters; p++) {
      PyStr name = new PyStr("model.layers." + p / 10 + ".mlp.experts.w" + p % 10 + ".weight");
      module.dictItems().add(name, tensor(new PyStr(Integer.toString(p)), 0));
      shapes
          .dictItems()
          .add(name, PyInstance.reduce(SIZE, PyTuple.of(PyTuple.of(PyInt.of(ELEMENTS)))));
    }
    return dict(
        "module", module,
        "buffer_names", new PyList(),
        "param_shapes", PyList.of(List.of(shapes)),
        "shared_params", new PyDict(),
        "global_steps", PyInt.of(3),
        "dp_world_size", PyInt.of(ranks),
        "ds_config", dict("zero_optimization", dict("sub_group_size", PyInt.of(1_000_000_000))));
  }

  private static List<StorageSize> modelStorages(int parameters) {
    List<StorageSize> storages = new ArrayList<>();
    for (int p = 0; p < parameters; p++) {
      storages.add(new StorageSize(Integer.toString(p), 0));
    }
    return storages;
  }

  private static Header optimizer(int parameters, int ranks) {
    long elements = (long) parameters * piece(ranks);
    PyDict state =
        dict(
            "exp_avg", tensor(new PyStr("0"), elements),
            "exp_avg_sq", tensor(new PyStr("1"), elements));
    PyDict group = dict("params", PyList.of(List.of(PyInt.of(0))));
    return new Header(
        dict(
            "optimizer_state_dict",
            dict(
                "zero_stage", PyInt.of(3),
                "partition_count", PyInt.of(ranks),
                "optimizer_state_dict",
                    dict("state", dict(0, state), "param_groups", PyList.of(List.of(group))),
                "fp32_flat_groups", PyList.of(List.of(tensor(new PyStr("2"), elements))))),
        List.of(
            new StorageSize("0", 4 * elements),
            new StorageSize("1", 4 * elements),
            new StorageSize("2", 4 * elements)));
  }

  /** A file whose storages nobody reads. */
  private static final class Header {
    final long bytes;
    final List<ByteSegment> segments;

    Header(PyDict root, List<StorageSize> storages) {
      byte[] pickle = PickleWriter.write(root, 2);
      PickleReader.read(pickle, "what this test made");
      TorchFileLayout layout =
          TorchFileLayout.plan(
              ContainerStyle.PLAIN,
              "archive",
              pickle,
              storages,
              TorchFileLayout.serializationId(pickle, storages));
      Map<String, Integer> crcs = new HashMap<>();
      storages.forEach(storage -> crcs.put(storage.key(), 1));
      bytes = layout.totalBytes();
      segments = layout.segments(crcs);
    }
  }

  @Override
  public Listing list(String directory) {
    List<FileStat> files = new ArrayList<>();
    if (directory.equals("uniform")) {
      files.add(new FileStat("uniform/latest", "latest", 3, "", false));
      return new Listing(files, List.of("tag"));
    }
    for (int rank = 0; rank < ranks; rank++) {
      String prefix = "zero_pp_rank_" + rank + "_mp_rank_00_";
      files.add(stat(prefix + "model_states.pt", model));
      files.add(stat(prefix + "optim_states.pt", optimizer));
    }
    return new Listing(files, List.of());
  }

  private static FileStat stat(String name, Header header) {
    return new FileStat("uniform/tag/" + name, name, header.bytes, "", false);
  }

  @Override
  public String child(String directory, String name) {
    return directory + "/" + name;
  }

  @Override
  public RangedFile open(FileStat file) {
    Header header = file.name().contains("model") ? model : optimizer;
    return new RangedFile() {
      @Override
      public String path() {
        return file.path();
      }

      @Override
      public long size() {
        return file.bytes();
      }

      @Override
      public void readFully(long position, ByteBuffer into) {
        if (file.name().equals("latest")) {
          into.put(new byte[] {'t', 'a', 'g'});
          return;
        }
        long end = position + into.remaining();
        int start = into.position();
        for (ByteSegment segment : header.segments) {
          long from = Math.max(position, segment.offset());
          long to = Math.min(end, segment.offset() + segment.bytes().length);
          if (from < to) {
            into.put(
                start + (int) (from - position),
                segment.bytes(),
                (int) (from - segment.offset()),
                (int) (to - from));
          }
        }
        into.position(into.limit());
      }

      @Override
      public void close() {}
    };
  }
}

package io.github.reshard.checkpoint.zero;

import static org.assertj.core.api.Assertions.assertThat;

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
import io.github.reshard.checkpoint.plan.ReshardPlan;
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
import java.util.Optional;
import org.junit.jupiter.api.Test;

/**
 * The plan of a checkpoint of 10,000 parameters between 1,024 and 768 ranks, whose 2,048 files
 * exist as two headers that all ranks have in common: a pickle is 1 MB, a directory 1 MB.
 */
class ManyRanksTest {
  private static final int PARAMETERS = 10_000;
  private static final int SOURCE_RANKS = 1024;
  private static final int TARGET_RANKS = 768;
  private static final int ELEMENTS = 700_001;
  private static final long MOST_BYTES = 400L << 20;

  @Test
  void planningTakesMemoryInProportionToTheMetadata() throws Exception {
    Ranks store = new Ranks(model(), optimizer());
    CheckpointFiles files = CheckpointFiles.discover(store, "many", Optional.empty());

    long begin = System.nanoTime();
    ReshardPlan plan = ReshardPlanner.plan(store, files, TARGET_RANKS, 64 << 20);
    double seconds = (System.nanoTime() - begin) / 1e9;

    System.gc();
    long used = Runtime.getRuntime().totalMemory() - Runtime.getRuntime().freeMemory();
    System.out.printf(
        "%d parameters, %d to %d ranks: planned in %.1f s, %d MiB are in use after it%n",
        PARAMETERS, SOURCE_RANKS, TARGET_RANKS, seconds, used >> 20);
    assertThat(plan.targets()).hasSize(2 * TARGET_RANKS);
    assertThat(plan.models().get(0).targetPartitions()).hasSize(3 * TARGET_RANKS);
    assertThat(used).isLessThan(MOST_BYTES);
  }

  private static int piece() {
    return (ELEMENTS + SOURCE_RANKS - 1) / SOURCE_RANKS;
  }

  private static PyInstance tensor(PyObject key, long elements) {
    return PyInstance.reduce(
        new PyGlobal("torch._utils", "_rebuild_tensor_v2"),
        PyTuple.of(
            StorageNode.create(
                new PyGlobal("torch", "FloatStorage"), (PyStr) key, new PyStr("cpu"), elements),
            PyInt.of(0),
            PyTuple.of(PyInt.of(elements)),
            PyTuple.of(PyInt.of(1)),
            PyBool.FALSE,
            orderedDict()));
  }

  private static PyInstance orderedDict() {
    return PyInstance.reduce(new PyGlobal("collections", "OrderedDict"), PyTuple.of());
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

  private static Header model() {
    PyInstance module = orderedDict();
    PyInstance shapes = orderedDict();
    List<StorageSize> storages = new ArrayList<>();
    for (int p = 0; p < PARAMETERS; p++) {
      PyStr name = new PyStr("model.layers." + p / 10 + ".mlp.experts.w" + p % 10 + ".weight");
      module.dictItems().add(name, tensor(new PyStr(Integer.toString(p)), 0));
      shapes
          .dictItems()
          .add(
              name,
              PyInstance.reduce(
                  new PyGlobal("torch", "Size"), PyTuple.of(PyTuple.of(PyInt.of(ELEMENTS)))));
      storages.add(new StorageSize(Integer.toString(p), 0));
    }
    return new Header(
        dict(
            "module", module,
            "buffer_names", new PyList(),
            "param_shapes", PyList.of(List.of(shapes)),
            "shared_params", new PyDict(),
            "global_steps", PyInt.of(3),
            "dp_world_size", PyInt.of(SOURCE_RANKS),
            "ds_config",
                dict("zero_optimization", dict("sub_group_size", PyInt.of(1_000_000_000)))),
        storages);
  }

  private static Header optimizer() {
    long elements = (long) PARAMETERS * piece();
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
                "partition_count", PyInt.of(SOURCE_RANKS),
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

  /** A checkpoint in which the files of all ranks are the same. */
  private record Ranks(Header model, Header optimizer) implements SourceStore {
    private static final long serialVersionUID = 1L;

    @Override
    public Listing list(String directory) {
      List<FileStat> files = new ArrayList<>();
      if (directory.equals("many")) {
        files.add(new FileStat("many/latest", "latest", 3, "", false));
        return new Listing(files, List.of("tag"));
      }
      for (int rank = 0; rank < SOURCE_RANKS; rank++) {
        String prefix = "zero_pp_rank_" + rank + "_mp_rank_00_";
        files.add(stat(prefix + "model_states.pt", model));
        files.add(stat(prefix + "optim_states.pt", optimizer));
      }
      return new Listing(files, List.of());
    }

    private static FileStat stat(String name, Header header) {
      return new FileStat("many/tag/" + name, name, header.bytes, "", false);
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
}

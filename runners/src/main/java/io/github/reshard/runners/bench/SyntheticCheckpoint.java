package io.github.reshard.runners.bench;

import io.github.reshard.checkpoint.copy.WeightCast;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyBool;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PySet;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.ContainerStyle;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.StorageNode;
import io.github.reshard.checkpoint.torch.StorageSize;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.zip.CRC32;

/**
 * Writes a ZeRO-2 checkpoint as DeepSpeed 0.19.6 would, of any size, for {@code scripts/bench}: one
 * param group, Adam, fp32 masters, module weights that are the masters rounded. Usage: {@code
 * SyntheticCheckpoint DIRECTORY MIB PARAMETERS RANKS bf16|fp16}.
 */
public final class SyntheticCheckpoint {
  private static final String TAG = "global_step1";

  /** Master, exp_avg and exp_avg_sq in fp32, and the module's weight in 16 bits. */
  private static final int BYTES_PER_ELEMENT = 14;

  /** A prime, so that no partition boundary falls on a repetition. */
  private static final int PERIOD_ELEMENTS = 1_048_573;

  private static final PyGlobal ORDERED_DICT = new PyGlobal("collections", "OrderedDict");
  private static final PyGlobal REBUILD = new PyGlobal("torch._utils", "_rebuild_tensor_v2");
  private static final PyStr CPU = new PyStr("cpu");

  private final Path directory;
  private final DType weightType;
  private final FlatLayout layout;
  private final ByteBuffer masters;
  private final ByteBuffer weights;
  private final ByteBuffer moments;

  private SyntheticCheckpoint(
      Path directory, long elements, int parameters, int ranks, DType type) {
    this.directory = directory;
    this.weightType = type;
    this.layout =
        new FlatLayout(
            ranks,
            shapes(elements, parameters),
            List.of(FlatLayout.Group.dense(parameters, ranks)),
            false);
    this.masters = buffer(PERIOD_ELEMENTS * 4);
    this.weights = buffer(PERIOD_ELEMENTS * type.bytes());
    this.moments = buffer(PERIOD_ELEMENTS * 4);
    SplittableRandom random = new SplittableRandom(1);
    for (int i = 0; i < PERIOD_ELEMENTS; i++) {
      int bits = Float.floatToRawIntBits((float) (random.nextDouble() - 0.5) / 8);
      masters.putInt(bits);
      weights.putShort((short) WeightCast.toBits(bits, type));
      moments.putInt(Float.floatToRawIntBits((float) random.nextDouble() * 1e-3f));
    }
  }

  private static ByteBuffer buffer(int bytes) {
    return ByteBuffer.allocateDirect(bytes).order(ByteOrder.LITTLE_ENDIAN);
  }

  /** Every second parameter is a bias of a few elements; the others share the rest evenly. */
  private static List<Parameter> shapes(long elements, int parameters) {
    long matrices = (parameters + 1L) / 2;
    long columns = Math.max(1, (long) Math.sqrt((double) elements / matrices));
    long rows = Math.max(1, elements / matrices / columns);
    List<Parameter> shapes = new ArrayList<>();
    for (int p = 0; p < parameters; p++) {
      boolean matrix = p % 2 == 0;
      String name = "layers.%d.%s".formatted(p / 2, matrix ? "weight" : "bias");
      shapes.add(new Parameter(name, matrix ? List.of(rows, columns) : List.of(rows % 7 + 3), 0));
    }
    return shapes;
  }

  /** Writes one checkpoint. */
  public static void main(String[] args) throws IOException {
    long bytes = Long.parseLong(args[1]) << 20;
    DType type = args[4].equals("fp16") ? DType.FLOAT16 : DType.BFLOAT16;
    new SyntheticCheckpoint(
            Path.of(args[0]),
            bytes / BYTES_PER_ELEMENT,
            Integer.parseInt(args[2]),
            Integer.parseInt(args[3]),
            type)
        .write();
  }

  private void write() throws IOException {
    Files.createDirectories(directory.resolve(TAG));
    writeModelFile();
    for (int rank = 0; rank < layout.worldSize(); rank++) {
      writeOptimizerFile(rank);
    }
    Files.writeString(directory.resolve("latest"), TAG);
  }

  private void writeModelFile() throws IOException {
    PyInstance module = orderedDict();
    PyInstance shapes = orderedDict();
    long flat = layout.flatElements(0);
    for (int p = 0; p < layout.parameters().size(); p++) {
      Parameter parameter = layout.parameters().get(p);
      PyStr name = new PyStr(parameter.name());
      module
          .dictItems()
          .add(name, tensor(weightType, "0", flat, layout.flatStart(p), parameter.shape(), false));
      shapes
          .dictItems()
          .add(
              name,
              PyInstance.reduce(
                  new PyGlobal("torch", "Size"), PyTuple.of(ints(parameter.shape()))));
    }
    Map<String, Object> root = new LinkedHashMap<>();
    root.put("module", module);
    root.put("buffer_names", List.of());
    root.put("optimizer", PyNone.NONE);
    root.put("param_shapes", List.of(shapes));
    root.put("frozen_param_shapes", PyNone.NONE);
    root.put("shared_params", Map.of());
    root.put("frozen_param_fragments", PyNone.NONE);
    root.put("lr_scheduler", PyNone.NONE);
    root.put("data_sampler", PyNone.NONE);
    root.put("random_ltd", PyNone.NONE);
    root.put("sparse_tensor_module_names", new PySet(false));
    root.put("skipped_steps", 0L);
    root.put("global_steps", 1L);
    root.put("global_samples", 24L);
    root.put("dp_world_size", (long) layout.worldSize());
    root.put("mp_world_size", 1L);
    root.put("ds_config", config());
    root.put("ds_version", "0.19.6");
    List<Payload> payloads = List.of(new Payload("0", weights, 0, flat, layout.groupElements(0)));
    write("mp_rank_00_model_states.pt", python(root), payloads);
  }

  private Map<String, Object> config() {
    Map<String, Object> config = new LinkedHashMap<>();
    config.put("train_batch_size", 24L);
    config.put("zero_optimization", Map.of("stage", 2L));
    config.put(weightType == DType.FLOAT16 ? "fp16" : "bf16", Map.of("enabled", PyBool.TRUE));
    return config;
  }

  private void writeOptimizerFile(int rank) throws IOException {
    long partition = layout.bucketElements(0);
    long data = partition - layout.padding(rank, 0);
    Map<String, Object> state = new LinkedHashMap<>();
    state.put("step", tensor(DType.FLOAT32, "0", 1, 0, List.of(), false));
    state.put("exp_avg", tensor(DType.FLOAT32, "1", partition, 0, List.of(partition), false));
    state.put("exp_avg_sq", tensor(DType.FLOAT32, "2", partition, 0, List.of(partition), false));
    PyDict states = new PyDict();
    states.entries().add(PyInt.of(0), python(state));
    Map<String, Object> group = new LinkedHashMap<>();
    group.put("lr", 1e-3);
    group.put("betas", PyTuple.of(new PyFloat(0.9), new PyFloat(0.999)));
    group.put("eps", 1e-8);
    group.put("weight_decay", 0.01);
    group.put("params", List.of(0L));
    Map<String, Object> base = new LinkedHashMap<>();
    base.put("state", states);
    base.put("param_groups", List.of(group));
    PyInstance mapping = orderedDict();
    PyStr numel = new PyStr("numel");
    PyStr start = new PyStr("start");
    for (Extent extent : layout.extentsIn(rank, 0)) {
      PyDict address = new PyDict();
      address.entries().add(numel, PyInt.of(extent.elements()));
      address.entries().add(start, PyInt.of(extent.bucketStart()));
      mapping
          .dictItems()
          .add(
              new PyStr(layout.parameters().get(extent.parameter()).name()),
              PyInstance.newObject(
                  new PyGlobal("deepspeed.utils.tensor_fragment", "fragment_address"), address));
    }
    Map<String, Object> optimizer = new LinkedHashMap<>();
    optimizer.put(
        "loss_scaler",
        PyInstance.newObject(
            new PyGlobal("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
            python(Map.of("cur_scale", 1.0))));
    optimizer.put("dynamic_loss_scale", PyBool.FALSE);
    optimizer.put("overflow", PyBool.FALSE);
    optimizer.put("clip_grad", 0.0);
    optimizer.put("base_optimizer_state", base);
    optimizer.put(
        "single_partition_of_fp32_groups",
        List.of(tensor(DType.FLOAT32, "3", partition, 0, List.of(data), true)));
    optimizer.put(
        "zero_stage",
        PyInstance.reduce(
            new PyGlobal("deepspeed.runtime.zero.config", "ZeroStageEnum"),
            PyTuple.of(PyInt.of(2))));
    optimizer.put("group_paddings", List.of(layout.padding(rank, 0)));
    optimizer.put("partition_count", List.of((long) layout.worldSize()));
    optimizer.put("ds_version", "0.19.6");
    optimizer.put("param_slice_mappings", List.of(mapping));
    Map<String, Object> root = new LinkedHashMap<>();
    root.put("optimizer_state_dict", optimizer);
    root.put("ds_config", config());
    root.put("ds_version", "0.19.6");
    long from = rank * partition;
    ByteBuffer step = buffer(4).putFloat(1f);
    write(
        "%szero_pp_rank_%d_mp_rank_00_optim_states.pt"
            .formatted(weightType == DType.FLOAT16 ? "" : "bf16_", rank),
        python(root),
        List.of(
            new Payload("0", step, 0, 1, 1),
            new Payload("1", moments, from, partition, data),
            new Payload("2", moments, from + 1, partition, data),
            new Payload("3", masters, from, partition, data)));
  }

  /**
   * The content of a storage.
   *
   * @param content repeated for ever
   * @param from the first element in the endless repetition
   * @param elements elements of the storage
   * @param data how many of them are not zero padding
   */
  private record Payload(String key, ByteBuffer content, long from, long elements, long data) {
    int width() {
      return content.capacity() == 4 ? 4 : content.capacity() / PERIOD_ELEMENTS;
    }
  }

  private void write(String name, PyObject root, List<Payload> payloads) throws IOException {
    byte[] pickle = PickleWriter.write(root, 2);
    List<StorageSize> sizes =
        payloads.stream().map(p -> new StorageSize(p.key(), p.elements() * p.width())).toList();
    TorchFileLayout file =
        TorchFileLayout.plan(
            ContainerStyle.PLAIN,
            name.substring(0, name.length() - ".pt".length()),
            pickle,
            sizes,
            TorchFileLayout.serializationId(pickle, sizes));
    Map<String, Integer> crcs = new HashMap<>();
    try (FileChannel channel =
        FileChannel.open(
            directory.resolve(TAG).resolve(name),
            StandardOpenOption.CREATE,
            StandardOpenOption.TRUNCATE_EXISTING,
            StandardOpenOption.WRITE)) {
      for (Payload payload : payloads) {
        crcs.put(payload.key(), writePayload(channel, file.payloadOffset(payload.key()), payload));
      }
      for (ByteSegment segment : file.segments(crcs)) {
        writeFully(channel, segment.offset(), ByteBuffer.wrap(segment.bytes()));
      }
    }
  }

  private static int writePayload(FileChannel channel, long at, Payload payload)
      throws IOException {
    CRC32 crc = new CRC32();
    int width = payload.width();
    long done = 0;
    while (done < payload.data()) {
      int start = (int) ((payload.from() + done) * width % payload.content().capacity());
      int length =
          (int) Math.min((payload.data() - done) * width, payload.content().capacity() - start);
      crc.update(payload.content().slice(start, length));
      writeFully(channel, at + done * width, payload.content().slice(start, length));
      done += length / width;
    }
    long padding = (payload.elements() - payload.data()) * width;
    for (long filled = 0; filled < padding; ) {
      ByteBuffer zeros = ByteBuffer.allocate((int) Math.min(1 << 20, padding - filled));
      crc.update(zeros.slice());
      int length = zeros.remaining();
      writeFully(channel, at + payload.data() * width + filled, zeros);
      filled += length;
    }
    return (int) crc.getValue();
  }

  private static void writeFully(FileChannel channel, long position, ByteBuffer bytes)
      throws IOException {
    long at = position;
    while (bytes.hasRemaining()) {
      at += channel.write(bytes, at);
    }
  }

  private static PyInstance orderedDict() {
    return PyInstance.reduce(ORDERED_DICT, PyTuple.of());
  }

  private static PyTuple ints(List<Long> numbers) {
    return new PyTuple(numbers.stream().map(PyInt::of).toList());
  }

  private static PyInstance tensor(
      DType dtype,
      String key,
      long storageElements,
      long offset,
      List<Long> shape,
      boolean requiresGrad) {
    List<Long> strides = new ArrayList<>(shape);
    long stride = 1;
    for (int d = shape.size() - 1; d >= 0; d--) {
      strides.set(d, stride);
      stride *= shape.get(d);
    }
    return PyInstance.reduce(
        REBUILD,
        PyTuple.of(
            StorageNode.create(
                new PyGlobal("torch", dtype.storageClass().orElseThrow()),
                new PyStr(key),
                CPU,
                storageElements),
            PyInt.of(offset),
            ints(shape),
            ints(strides),
            requiresGrad ? PyBool.TRUE : PyBool.FALSE,
            orderedDict()));
  }

  private static PyObject python(Object value) {
    if (value instanceof PyObject node) {
      return node;
    }
    if (value instanceof String text) {
      return new PyStr(text);
    }
    if (value instanceof Long number) {
      return PyInt.of(number);
    }
    if (value instanceof Double number) {
      return new PyFloat(number);
    }
    if (value instanceof List<?> list) {
      return PyList.of(list.stream().map(SyntheticCheckpoint::python).toList());
    }
    PyDict dict = new PyDict();
    ((Map<?, ?>) value).forEach((k, v) -> dict.entries().add(python(k), python(v)));
    return dict;
  }
}

package io.github.reshard.testing;

import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.BitSet;
import java.util.HashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * What of the storages in a ZeRO-3 file is padding, which DeepSpeed does not initialise: worked out
 * from the shapes in the model file of the same rank.
 */
public final class ShardedPieces {
  private static final Pattern NAME =
      Pattern.compile("(.*/)?(?:bf16_)?zero_pp_rank_(\\d+)_mp_rank_(\\d+)_(model|optim)_states.pt");
  private static final Pattern STATE =
      Pattern.compile("optimizer_state_dict\\.optimizer_state_dict\\.state\\.(\\d+)\\..*");
  private static final Pattern MASTER =
      Pattern.compile("optimizer_state_dict\\.fp32_flat_groups\\[(\\d+)\\]");

  private ShardedPieces() {}

  /** Whether a file of this name may have padding in it. */
  public static boolean has(String name) {
    return NAME.matcher(name).matches();
  }

  public static int rank(String name) {
    Matcher m = NAME.matcher(name);
    if (!m.matches()) {
      throw new IllegalArgumentException(name);
    }
    return Integer.parseInt(m.group(2));
  }

  /**
   * The bytes of each storage that are padding, by storage key.
   *
   * @param checkpoint where the file is
   * @param name its name there
   */
  public static Map<String, BitSet> padding(Path checkpoint, String name, TorchContent file) {
    Matcher m = NAME.matcher(name);
    if (!m.matches()) {
      throw new IllegalArgumentException(name);
    }
    String modelName =
        "%szero_pp_rank_%s_mp_rank_%s_model_states.pt"
            .formatted(m.group(1) == null ? "" : m.group(1), m.group(2), m.group(3));
    TorchContent model = TorchContent.read(checkpoint.resolve(modelName));
    int rank = Integer.parseInt(m.group(2));
    int ranks = Math.toIntExact(model.number("dp_world_size"));
    Map<String, BitSet> padding = new HashMap<>();
    for (Map.Entry<String, TensorNode> tensor : file.tensors().entrySet()) {
      int width = tensor.getValue().dtype().bytes();
      BitSet elements = null;
      Matcher inState = STATE.matcher(tensor.getKey());
      Matcher inMasters = MASTER.matcher(tensor.getKey());
      if (inState.matches() && tensor.getValue().shape().length > 0) {
        elements = paddingOfSubGroup(model, Integer.parseInt(inState.group(1)), rank, ranks);
      } else if (inMasters.matches()) {
        elements = paddingOfSubGroup(model, Integer.parseInt(inMasters.group(1)), rank, ranks);
      } else if (tensor.getKey().startsWith("frozen_param_fragments.")) {
        String parameter = tensor.getKey().substring("frozen_param_fragments.".length());
        elements = new BitSet();
        addPadding(
            Reassembly.numel(model.at("frozen_param_shapes", parameter)), 0, rank, ranks, elements);
      }
      if (elements != null) {
        BitSet bytes = new BitSet();
        elements.stream().forEach(e -> bytes.set(e * width, (e + 1) * width));
        padding.put(tensor.getValue().storageKey(), bytes);
      }
    }
    return padding;
  }

  private static BitSet paddingOfSubGroup(TorchContent model, int subGroup, int rank, int ranks) {
    BitSet padding = new BitSet();
    int at = 0;
    for (PyEntries.Entry parameter :
        TorchContent.entries(((PyList) model.at("param_shapes")).get(subGroup))) {
      at = addPadding(Reassembly.numel(parameter.value()), at, rank, ranks, padding);
    }
    return padding;
  }

  private static int addPadding(int elements, int at, int rank, int ranks, BitSet padding) {
    int piece = (elements + ranks - 1) / ranks;
    int data = Math.max(0, Math.min(piece, elements - rank * piece));
    padding.set(at + data, at + piece);
    return at + piece;
  }

  /**
   * Puts the padding of another file in place of that of {@code file}, and with it the checksums
   * that cover it.
   */
  public static void restorePadding(byte[] file, Path checkpoint, String name) {
    if (!has(name)) {
      return;
    }
    TorchContent other = TorchContent.read(checkpoint.resolve(name));
    padding(checkpoint, name, other)
        .forEach(
            (key, bytes) -> {
              if (bytes.isEmpty()) {
                return;
              }
              TorchFile.Entry entry = other.file().storage(key).orElseThrow();
              int from = Math.toIntExact(entry.payloadOffset());
              bytes.stream().forEach(b -> file[from + b] = other.bytes()[from + b]);
              copy(other.bytes(), file, from + Math.toIntExact(entry.bytes()) + 4);
              copy(other.bytes(), file, directoryHeader(other, entry) + 16);
            });
  }

  private static void copy(byte[] from, byte[] to, int at) {
    System.arraycopy(from, at, to, at, 4);
  }

  /** Where the central directory has the header of {@code entry}. */
  private static int directoryHeader(TorchContent file, TorchFile.Entry entry) {
    byte[] fullName =
        (file.file().archiveName() + "/" + entry.name()).getBytes(StandardCharsets.UTF_8);
    ByteBuffer bytes = ByteBuffer.wrap(file.bytes()).order(ByteOrder.LITTLE_ENDIAN);
    for (int at = 0; at + 46 < bytes.capacity(); at++) {
      if (bytes.getInt(at) == 0x02014b50
          && bytes.getShort(at + 28) == fullName.length
          && bytes.slice(at + 46, fullName.length).equals(ByteBuffer.wrap(fullName))) {
        return at;
      }
    }
    throw new IllegalStateException("no directory header of " + entry);
  }
}

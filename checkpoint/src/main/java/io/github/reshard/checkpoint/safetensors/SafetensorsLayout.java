package io.github.reshard.checkpoint.safetensors;

import io.github.reshard.checkpoint.torch.DType;
import java.io.Serializable;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A safetensors file that is yet to be written: every byte before the tensors, and where each
 * tensor goes, as the reference implementation lays it out. Tensors lie by falling alignment of
 * their type, then by name in UTF-8; the header is padded with spaces so that they begin at a
 * multiple of 8 bytes (huggingface/safetensors 0.8.0, safetensors/src/tensor.rs, {@code prepare}).
 */
public final class SafetensorsLayout {
  /** What {@code from_pretrained} of Transformers before 4.57 wants to see. */
  public static final Map<String, String> OF_PYTORCH = Map.of("format", "pt");

  private static final int ALIGNMENT = 8;

  private final byte[] header;
  private final Map<String, Long> offsets;
  private final long bytes;

  private SafetensorsLayout(byte[] header, Map<String, Long> offsets, long bytes) {
    this.header = header;
    this.offsets = Collections.unmodifiableMap(offsets);
    this.bytes = bytes;
  }

  /**
   * A tensor that is to be written.
   *
   * @param name its name, any text but {@code __metadata__}
   * @param dtype the type of an element
   * @param shape elements per dimension
   */
  public record Tensor(String name, DType dtype, List<Long> shape) implements Serializable {
    public Tensor {
      shape = List.copyOf(shape);
    }

    /** Bytes that its elements take. */
    public long bytes() {
      long bytes = dtype.bytes();
      for (long dimension : shape) {
        bytes = Math.multiplyExact(bytes, dimension);
      }
      return bytes;
    }
  }

  /** Whether the format has a name for {@code dtype}. */
  public static boolean supports(DType dtype) {
    return SafetensorsType.of(dtype).isPresent();
  }

  /**
   * Lays a file out.
   *
   * @param tensors what it holds, in any order
   * @param metadata what it says beside them; none is written if it is empty
   * @throws IllegalArgumentException if two tensors have one name, or the format has no name for a
   *     type
   */
  public static SafetensorsLayout of(Collection<Tensor> tensors, Map<String, String> metadata) {
    List<Tensor> sorted = new ArrayList<>(tensors);
    sorted.sort(
        Comparator.comparing((Tensor tensor) -> type(tensor), Comparator.reverseOrder())
            .thenComparing(tensor -> utf8(tensor.name()), Arrays::compareUnsigned));
    StringBuilder json = new StringBuilder("{");
    if (!metadata.isEmpty()) {
      json.append(JsonText.of(SafetensorsFile.METADATA)).append(':').append(JsonText.of(metadata));
    }
    Map<String, Long> begins = new LinkedHashMap<>();
    long at = 0;
    for (Tensor tensor : sorted) {
      if (begins.put(tensor.name(), at) != null || tensor.name().equals(SafetensorsFile.METADATA)) {
        throw new IllegalArgumentException("a file cannot hold two tensors " + tensor.name());
      }
      long end = Math.addExact(at, tensor.bytes());
      Map<String, Object> info = new LinkedHashMap<>();
      info.put("dtype", type(tensor).name());
      info.put("shape", tensor.shape());
      info.put("data_offsets", List.of(at, end));
      json.append(json.length() > 1 ? "," : "")
          .append(JsonText.of(tensor.name()))
          .append(':')
          .append(JsonText.of(info));
      at = end;
    }
    byte[] text = utf8(json.append('}').toString());
    int padded = -Math.floorDiv(-text.length, ALIGNMENT) * ALIGNMENT;
    byte[] header = new byte[SafetensorsFile.LENGTH_BYTES + padded];
    Arrays.fill(header, (byte) ' ');
    ByteBuffer.wrap(header).order(ByteOrder.LITTLE_ENDIAN).putLong(padded).put(text);
    Map<String, Long> offsets = new LinkedHashMap<>();
    begins.forEach((name, begin) -> offsets.put(name, header.length + begin));
    return new SafetensorsLayout(header, offsets, Math.addExact(header.length, at));
  }

  private static SafetensorsType type(Tensor tensor) {
    return SafetensorsType.of(tensor.dtype())
        .orElseThrow(
            () ->
                new IllegalArgumentException(
                    "safetensors has no name for the type of "
                        + tensor.name()
                        + ", "
                        + tensor.dtype().torchName()));
  }

  private static byte[] utf8(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  /** Everything before the first tensor's first byte. */
  public byte[] header() {
    return header.clone();
  }

  /** Where each tensor begins, in bytes from the beginning of the file, in the file's order. */
  public Map<String, Long> offsets() {
    return offsets;
  }

  /** The length of the file, in bytes. */
  public long bytes() {
    return bytes;
  }
}

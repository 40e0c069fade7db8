package io.github.reshard.checkpoint.safetensors;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.json.Json;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.DType;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * The header of a safetensors file: 8 bytes with the length of the header, little endian; the
 * header, a JSON object from each tensor's name to its type, shape and place; the tensors' bytes,
 * little endian in C order, without holes and overlaps (huggingface/safetensors 0.8, README,
 * "Format").
 *
 * @param path the file, for messages
 * @param tensors by name, in the order of the header
 */
public record SafetensorsFile(String path, Map<String, Tensor> tensors) {
  /** What the reference implementation takes at most. */
  private static final long MOST_HEADER_BYTES = 100_000_000;

  static final int LENGTH_BYTES = 8;
  static final String METADATA = "__metadata__";

  public SafetensorsFile {
    tensors = Collections.unmodifiableMap(new LinkedHashMap<>(tensors));
  }

  /**
   * A tensor.
   *
   * @param dtype the type of an element
   * @param shape elements per dimension
   * @param offset of its first byte, counted from the beginning of the file
   * @param bytes its length
   */
  public record Tensor(DType dtype, List<Long> shape, long offset, long bytes) {
    public Tensor {
      shape = List.copyOf(shape);
    }
  }

  /**
   * Reads the header.
   *
   * @throws RefusedException if the file breaks a rule of the format, or holds a type that is not
   *     known
   */
  public static SafetensorsFile read(RangedFile file) throws IOException {
    if (file.size() < LENGTH_BYTES) {
      throw new RefusedException(
          file.path(),
          "expected a safetensors file, which begins with %d bytes that tell the length of its header; found %d bytes"
              .formatted(LENGTH_BYTES, file.size()));
    }
    ByteBuffer length = ByteBuffer.allocate(LENGTH_BYTES).order(ByteOrder.LITTLE_ENDIAN);
    file.readFully(0, length);
    long header = length.flip().getLong();
    if (header < 0 || header > MOST_HEADER_BYTES || header > file.size() - LENGTH_BYTES) {
      throw new RefusedException(
          file.path(),
          "the header should have %s bytes, the file has %d. It is damaged, or no safetensors file."
              .formatted(Long.toUnsignedString(header), file.size()));
    }
    ByteBuffer json = ByteBuffer.allocate((int) header);
    file.readFully(LENGTH_BYTES, json);
    json.flip();
    if (!json.hasRemaining() || json.get(0) != '{') {
      throw new RefusedException(file.path(), "expected '{' at byte 8, where the header begins");
    }
    Map<String, Tensor> tensors = new LinkedHashMap<>();
    object(file.path(), Json.parse(file.path() + ", header", json))
        .forEach(
            (name, value) -> {
              if (name.equals(METADATA)) {
                requireTexts(file.path(), value);
              } else {
                tensors.put(name, tensor(file.path() + ", " + name, value, LENGTH_BYTES + header));
              }
            });
    requireNoHoles(file, LENGTH_BYTES + header, tensors);
    return new SafetensorsFile(file.path(), tensors);
  }

  private static void requireTexts(String path, Object metadata) {
    for (Object value : object(path + ", " + METADATA, metadata).values()) {
      if (!(value instanceof String)) {
        throw new RefusedException(path, METADATA + " may hold texts only");
      }
    }
  }

  private static Tensor tensor(String where, Object value, long begin) {
    Map<?, ?> fields = object(where, value);
    Object name = fields.get("dtype");
    DType dtype =
        (name instanceof String text
                ? SafetensorsType.named(text)
                : Optional.<SafetensorsType>empty())
            .map(SafetensorsType::dtype)
            .orElseThrow(
                () -> new RefusedException(where, "the dtype %s is not known".formatted(name)));
    List<Long> shape = numbers(where + ".shape", fields.get("shape"));
    List<Long> offsets = numbers(where + ".data_offsets", fields.get("data_offsets"));
    if (offsets.size() != 2 || offsets.get(0) > offsets.get(1)) {
      throw new RefusedException(
          where, "expected data_offsets [begin, end], found " + fields.get("data_offsets"));
    }
    long bytes = offsets.get(1) - offsets.get(0);
    long expected;
    try {
      expected = dtype.bytes();
      for (long extent : shape) {
        expected = Math.multiplyExact(expected, extent);
      }
      Math.addExact(begin, offsets.get(1));
    } catch (ArithmeticException e) {
      throw new RefusedException(
          where,
          "shape %s and offsets %s are more than a file can hold".formatted(shape, offsets),
          e);
    }
    if (bytes != expected) {
      throw new RefusedException(
          where,
          "shape %s of %s takes %d bytes, data_offsets %s are %d"
              .formatted(shape, dtype.torchName(), expected, offsets, bytes));
    }
    return new Tensor(dtype, shape, begin + offsets.get(0), bytes);
  }

  private static void requireNoHoles(RangedFile file, long begin, Map<String, Tensor> tensors) {
    List<Map.Entry<String, Tensor>> byOffset = new ArrayList<>(tensors.entrySet());
    byOffset.sort(
        Comparator.comparingLong((Map.Entry<String, Tensor> e) -> e.getValue().offset())
            .thenComparingLong(e -> e.getValue().bytes()));
    long at = begin;
    for (Map.Entry<String, Tensor> entry : byOffset) {
      if (entry.getValue().offset() != at) {
        throw new RefusedException(
            file.path() + ", " + entry.getKey(),
            "begins at byte %d, the tensor before it ends at byte %d. The file is damaged."
                .formatted(entry.getValue().offset(), at));
      }
      at += entry.getValue().bytes();
    }
    if (at != file.size()) {
      throw new RefusedException(
          file.path(),
          "the last tensor ends at byte %d, the file at byte %d. The file is damaged."
              .formatted(at, file.size()));
    }
  }

  private static Map<String, ?> object(String where, Object value) {
    if (value instanceof Map<?, ?> map) {
      Map<String, Object> object = new LinkedHashMap<>();
      map.forEach((key, item) -> object.put((String) key, item));
      return object;
    }
    throw new RefusedException(where, "expected a JSON object");
  }

  private static List<Long> numbers(String where, Object value) {
    List<Long> numbers = new ArrayList<>();
    if (value instanceof List<?> list) {
      for (Object item : list) {
        if (!(item instanceof BigDecimal number)
            || number.signum() < 0
            || number.scale() != 0
            || number.precision() > 19
            || number.toBigInteger().bitLength() > 63) {
          throw new RefusedException(where, "expected whole numbers from 0 on, found " + item);
        }
        numbers.add(number.longValueExact());
      }
      return numbers;
    }
    throw new RefusedException(where, "expected a list of numbers");
  }
}

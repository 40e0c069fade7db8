package io.github.reshard.testing;

import io.github.reshard.checkpoint.json.Json;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** Reads the tensors of a safetensors file: 8 bytes of length, a JSON header, the data. */
public final class Safetensors {
  private Safetensors() {}

  public static Map<String, byte[]> read(Path path) {
    try {
      byte[] file = Files.readAllBytes(path);
      int header = Math.toIntExact(ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN).getLong(0));
      Map<String, byte[]> tensors = new TreeMap<>();
      Map<?, ?> named =
          (Map<?, ?>) Json.parse(path.toString(), ByteBuffer.wrap(file, 8, header).slice());
      named.forEach(
          (name, about) -> {
            if (!name.equals("__metadata__")) {
              List<?> offsets = (List<?>) ((Map<?, ?>) about).get("data_offsets");
              tensors.put(
                  (String) name,
                  Arrays.copyOfRange(
                      file, 8 + header + at(offsets, 0), 8 + header + at(offsets, 1)));
            }
          });
      return tensors;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static int at(List<?> offsets, int index) {
    return ((BigDecimal) offsets.get(index)).intValueExact();
  }
}

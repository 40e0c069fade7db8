package io.github.reshard.pipeline;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.TreeMap;

/** Reads the tensors of a safetensors file: 8 bytes of length, a JSON header, the data. */
final class Safetensors {
  private Safetensors() {}

  static Map<String, byte[]> read(Path path) {
    try {
      byte[] file = Files.readAllBytes(path);
      int header = Math.toIntExact(ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN).getLong(0));
      Map<String, byte[]> tensors = new TreeMap<>();
      new ObjectMapper()
          .readTree(file, 8, header)
          .properties()
          .forEach(
              tensor -> {
                JsonNode about = tensor.getValue();
                if (!tensor.getKey().equals("__metadata__")) {
                  int data = 8 + header;
                  int from = data + about.get("data_offsets").get(0).asInt();
                  int to = data + about.get("data_offsets").get(1).asInt();
                  tensors.put(tensor.getKey(), Arrays.copyOfRange(file, from, to));
                }
              });
      return tensors;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}

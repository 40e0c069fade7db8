package io.github.reshard.checkpoint.safetensors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.json.Json;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.testing.Corpus;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class SafetensorsFileTest {
  @TempDir Path directory;

  private SafetensorsFile read(byte[] content) throws IOException {
    Path path = directory.resolve("model.safetensors");
    Files.write(path, content);
    return SafetensorsFile.read(Corpus.open(path));
  }

  private static byte[] file(long headerBytes, String header, int data) {
    byte[] json = header.getBytes(StandardCharsets.UTF_8);
    return ByteBuffer.allocate(8 + json.length + data)
        .order(ByteOrder.LITTLE_ENDIAN)
        .putLong(headerBytes)
        .put(json)
        .array();
  }

  private SafetensorsFile read(String header, int data) throws IOException {
    return read(file(header.length(), header, data));
  }

  @Test
  void tensorsLieBehindTheHeaderInAnyOrder() throws IOException {
    String header =
        "{\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
            + "\"__metadata__\":{\"format\":\"pt\"},"
            + "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
            + "\"none\":{\"dtype\":\"F32\",\"shape\":[0,9],\"data_offsets\":[16,16]}}   ";
    SafetensorsFile file = read(header, 16);

    int begin = 8 + header.length();
    assertThat(file.tensors())
        .containsOnlyKeys("b", "a", "none")
        .containsEntry("a", new SafetensorsFile.Tensor(DType.FLOAT32, List.of(), begin, 4))
        .containsEntry(
            "b", new SafetensorsFile.Tensor(DType.BFLOAT16, List.of(2L, 3L), begin + 4, 12));
  }

  @Test
  void whatTheReferenceImplementationWroteIsRead() throws IOException {
    SafetensorsFile file =
        SafetensorsFile.read(
            Corpus.open(Corpus.ROOT.resolve("z2-fp32-twogroups/truth.safetensors")));

    assertThat(file.tensors().get("emb.weight.fp32").shape()).containsExactly(37L, 13L);
    assertThat(file.tensors()).hasSize(36);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = ';',
      value = {
        "[];expected '{'",
        "{;ends too early",
        "{\"a\":1};expected a JSON object",
        "{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}};dtype F33 is not known",
        "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}};dtype null is not known",
        "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}};expected a list of numbers",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}};whole numbers from 0",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}};whole numbers from 0",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775808],\"data_offsets\":[0,4]}};whole"
            + " numbers",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,4]}};more"
            + " than a file",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}};data_offsets [begin,"
            + " end]",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}};data_offsets [begin, end]",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}};takes 8 bytes",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}};the last tensor ends",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}};the tensor before it ends",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}};the"
            + " tensor before it ends",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,9223372036854775807]}};more"
            + " than a file",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{}};\"a\" is there"
            + " twice",
        "{\"__metadata__\":{\"a\":1}};may hold texts only"
      })
  void aHeaderThatBreaksARuleIsRefused(String header, String message) {
    assertThatThrownBy(() -> read(header, 4))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("model.safetensors")
        .hasMessageContaining(message);
  }

  @ParameterizedTest
  @ValueSource(longs = {-1, 3, 100, 100_000_001, Long.MIN_VALUE})
  void aLengthThatCannotBeIsRefused(long length) {
    assertThatThrownBy(() -> read(file(length, "{}", 0)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("the header should have " + Long.toUnsignedString(length));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "",
        "{}}",
        "{'a':1}",
        "{\"a\":1,}",
        "[1,]",
        "[01]",
        "[+1]",
        "[1.]",
        "[.5]",
        "[1e]",
        "nul",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"a",
        "{\"a\" 1}",
        "[1 2]",
        "//",
        "[NaN]",
        "\"\t\"",
        "-",
        "[\"\\u\"]"
      })
  void whatIsNoJsonIsRefused(String text) {
    assertThatThrownBy(() -> Json.parse("x.json", StandardCharsets.UTF_8.encode(text)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("x.json");
  }

  @Test
  void depthIsBounded() {
    String deep = "[".repeat(100_000);

    assertThatThrownBy(() -> Json.parse("x.json", StandardCharsets.UTF_8.encode(deep)))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("nested deeper");
  }

  @Test
  void bytesThatAreNotUtf8AreRefused() {
    assertThatThrownBy(() -> Json.parse("x.json", ByteBuffer.wrap(new byte[] {'"', -1, '"'})))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("not UTF-8");
  }

  @Property(tries = 300)
  void anyBytesAreReadOrRefused(@ForAll byte[] bytes) {
    try {
      Json.parse("x.json", ByteBuffer.wrap(bytes));
    } catch (RefusedException e) {
      assertThat(e).hasMessageStartingWith("x.json");
    }
  }
}

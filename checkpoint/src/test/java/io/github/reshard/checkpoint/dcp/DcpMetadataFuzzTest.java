package io.github.reshard.checkpoint.dcp;

import static org.assertj.core.api.Assertions.assertThat;

import com.code_intelligence.jazzer.junit.FuzzTest;
import io.github.reshard.checkpoint.RefusedException;
import java.util.stream.Stream;
import org.junit.jupiter.params.provider.MethodSource;

/** Any bytes are a {@code .metadata} that can be written again, or they are refused. */
class DcpMetadataFuzzTest {
  static Stream<byte[]> seeds() {
    return Goldens.all().map(Goldens::metadata);
  }

  @MethodSource("seeds")
  @FuzzTest
  void readsOrRefuses(byte[] bytes) {
    DcpMetadata metadata;
    try {
      metadata = MetadataReader.read(bytes, "fuzz");
    } catch (RefusedException expected) {
      return;
    }
    assertThat(MetadataReader.read(MetadataWriter.write(metadata), "again")).isEqualTo(metadata);
  }
}

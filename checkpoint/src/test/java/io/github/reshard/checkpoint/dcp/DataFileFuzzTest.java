package io.github.reshard.checkpoint.dcp;

import static org.assertj.core.api.Assertions.assertThat;

import com.code_intelligence.jazzer.junit.FuzzTest;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.testing.ReplacedFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Any bytes in the place of a data file are refused, or every tensor and object that {@code
 * .metadata} puts there is found within them.
 */
class DataFileFuzzTest {
  private static final Path GOLDEN = Goldens.ROOT.resolve("torch-2.15.0/nested");
  private static final String REPLACED = "__0_0.distcp";

  static Stream<byte[]> seeds() throws IOException {
    return Stream.of(Files.readAllBytes(GOLDEN.resolve(REPLACED)));
  }

  @MethodSource("seeds")
  @FuzzTest
  void readsOrRefuses(byte[] bytes) throws IOException {
    ReplacedFile store = new ReplacedFile(REPLACED, bytes);
    try {
      DcpCheckpoint dcp = DcpCheckpoint.find(store, GOLDEN.toString()).orElseThrow();
      Map<Boolean, Set<String>> keys =
          dcp.items().entrySet().stream()
              .collect(
                  Collectors.partitioningBy(
                      item -> item.getValue() instanceof DcpMetadata.Tensor,
                      Collectors.mapping(Map.Entry::getKey, Collectors.toSet())));
      assertThat(dcp.values(store, keys.get(false))).hasSameSizeAs(keys.get(false));
      DcpSources sources = DcpSources.read(store, dcp, keys.get(true), 0);
      for (String key : keys.get(true)) {
        DcpMetadata.Tensor tensor = (DcpMetadata.Tensor) dcp.items().get(key);
        for (int chunk = 0; chunk < tensor.chunks().size(); chunk++) {
          Address at = sources.address(key, chunk);
          SourceFile file = sources.files().get(at.file());
          assertThat(at.offset()).isNotNegative();
          assertThat(at.offset() + tensor.chunks().get(chunk).elements() * tensor.dtype().bytes())
              .as("%s chunk %d in %s", key, chunk, file.stat().path())
              .isLessThanOrEqualTo(file.stat().bytes());
        }
      }
    } catch (RefusedException expected) {
      // Said in words, which is all that is asked.
    }
  }
}

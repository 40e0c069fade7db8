package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpCheckpoint;
import io.github.reshard.checkpoint.dcp.DcpMetadata;
import io.github.reshard.checkpoint.dcp.DcpSources;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.zip.CRC32;

/** Reads the steps of a distributed checkpoint, each a tensor of one float32. */
final class StepValues {
  private StepValues() {}

  /** The steps under {@code keys}, which are tensors. */
  static Map<String, Double> read(SourceStore store, DcpCheckpoint dcp, Set<String> keys)
      throws IOException {
    Map<String, DcpMetadata.Item> items = dcp.items();
    for (String key : keys) {
      if (!(items.get(key) instanceof DcpMetadata.Tensor tensor)
          || tensor.dtype() != DType.FLOAT32
          || tensor.chunks().size() != 1
          || tensor.chunks().get(0).elements() != 1) {
        throw new RefusedException(
            dcp.path(), "'%s': expected a tensor of one float32, found another.".formatted(key));
      }
    }
    DcpSources sources = DcpSources.read(store, dcp, keys, 0);
    List<SourceFile> files = sources.files();
    Map<String, Double> steps = new LinkedHashMap<>();
    for (int f = 0; f < files.size(); f++) {
      try (RangedFile open = store.open(files.get(f).stat())) {
        for (String key : keys) {
          if (sources.address(key, 0).file() == f) {
            steps.put(key, read(open, key, sources, files.get(f).hasCrcs()));
          }
        }
      }
    }
    return steps;
  }

  private static double read(RangedFile file, String key, DcpSources sources, boolean hasCrcs)
      throws IOException {
    ByteBuffer bytes = ByteBuffer.allocate(Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
    file.readFully(sources.address(key, 0).offset(), bytes);
    CRC32 crc = new CRC32();
    crc.update(bytes.flip());
    if (hasCrcs && (int) crc.getValue() != sources.crc32(key, 0)) {
      throw new RefusedException(
          file.path(),
          "'%s': expected CRC %08x, found %08x: the file is damaged; copy it again"
              .formatted(key, sources.crc32(key, 0), (int) crc.getValue()));
    }
    return bytes.getFloat(0);
  }
}

package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.Scalar;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.zip.CRC32;

/** Reads tensors of one element out of a distributed checkpoint. */
final class ScalarValues {
  private ScalarValues() {}

  /** Those under {@code keys}, which are tensors. */
  static Map<String, Scalar.OfTensor> read(SourceStore store, DcpCheckpoint dcp, Set<String> keys)
      throws IOException {
    Map<String, DcpMetadata.Item> items = dcp.items();
    for (String key : keys) {
      if (!(items.get(key) instanceof DcpMetadata.Tensor tensor)
          || tensor.chunks().size() != 1
          || tensor.chunks().get(0).elements() != 1) {
        throw new RefusedException(
            dcp.path(), "'%s': expected a tensor of one element, found another.".formatted(key));
      }
    }
    DcpSources sources = DcpSources.read(store, dcp, keys, 0);
    List<SourceFile> files = sources.files();
    Map<String, Scalar.OfTensor> scalars = new LinkedHashMap<>();
    for (int f = 0; f < files.size(); f++) {
      try (RangedFile open = store.open(files.get(f).stat())) {
        for (String key : keys) {
          if (sources.address(key, 0).file() == f) {
            DType dtype = ((DcpMetadata.Tensor) items.get(key)).dtype();
            byte[] element = read(open, key, dtype, sources, files.get(f).hasCrcs());
            scalars.put(key, new Scalar.OfTensor(dtype, element));
          }
        }
      }
    }
    return scalars;
  }

  private static byte[] read(
      RangedFile file, String key, DType dtype, DcpSources sources, boolean hasCrcs)
      throws IOException {
    byte[] element = new byte[dtype.bytes()];
    file.readFully(sources.address(key, 0).offset(), ByteBuffer.wrap(element));
    CRC32 crc = new CRC32();
    crc.update(element);
    if (hasCrcs && (int) crc.getValue() != sources.crc32(key, 0)) {
      throw new RefusedException(
          file.path(),
          "'%s': expected CRC %08x, found %08x: the file is damaged; copy it again"
              .formatted(key, sources.crc32(key, 0), (int) crc.getValue()));
    }
    return element;
  }
}

package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.state.ZeroLayout;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.DType;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.List;

/**
 * Reads the padding at the end of a group's partitions; there are less than two elements a rank of
 * it.
 */
final class PaddingReader {
  private final SourceStore store;
  private final List<SourceFile> sources;

  PaddingReader(SourceStore store, List<SourceFile> sources) {
    this.store = store;
    this.sources = sources;
  }

  /** The bits that every element of the padding has, or 0 if there is none or it is not uniform. */
  long uniformBits(ParameterSet set, int group, String state, DType dtype) throws IOException {
    ZeroLayout layout = set.layout();
    boolean found = false;
    long uniform = 0;
    for (int rank = 0; rank < layout.worldSize(); rank++) {
      if (layout.elementsIn(rank, group) == 0) {
        continue;
      }
      List<Extent> extents = layout.extentsIn(rank, group);
      Extent last = extents.isEmpty() ? null : extents.get(extents.size() - 1);
      long data = last == null ? 0 : last.bucketStart() + last.elements();
      Address partition = set.partitions().get(new Partition(rank, group, state));
      SourceFile file = sources.get(partition.file());
      long storageEnd =
          file.entries().get(partition.entry()).payloadOffset()
              + file.entries().get(partition.entry()).bytes();
      long available = (storageEnd - partition.offset()) / dtype.bytes();
      long padding = Math.min(layout.elementsIn(rank, group), available) - data;
      if (padding <= 0) {
        continue;
      }
      ByteBuffer bytes = ByteBuffer.allocate(Math.toIntExact(padding * dtype.bytes()));
      try (RangedFile open = store.open(file.stat())) {
        open.readFully(partition.offset() + data * dtype.bytes(), bytes);
      }
      for (int i = 0; i < padding; i++) {
        long bits = 0;
        for (int b = dtype.bytes() - 1; b >= 0; b--) {
          bits = (bits << 8) | (bytes.get(i * dtype.bytes() + b) & 0xff);
        }
        if (found && bits != uniform) {
          return 0;
        }
        found = true;
        uniform = bits;
      }
    }
    return uniform;
  }
}

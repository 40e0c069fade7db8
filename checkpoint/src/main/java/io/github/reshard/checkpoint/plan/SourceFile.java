package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.Serializable;
import java.util.List;

/**
 * A file of the source checkpoint.
 *
 * @param stat the file as it was at planning
 * @param entries the zip entries of a torch file in file order, empty for any other file
 * @param hasCrcs whether the entries' CRCs were recorded ({@code
 *     torch.serialization.set_crc32_options})
 */
public record SourceFile(FileStat stat, List<TorchFile.Entry> entries, boolean hasCrcs)
    implements Serializable {
  public SourceFile {
    entries = List.copyOf(entries);
  }
}

package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.Closeable;
import java.io.IOException;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;

/** Keeps the source files that were used last open. */
final class OpenFiles implements Closeable {
  private static final int MOST = 64;

  private final SourceStore store;
  private final Map<String, RangedFile> open = new LinkedHashMap<>(MOST, 0.75f, true);

  OpenFiles(SourceStore store) {
    this.store = store;
  }

  RangedFile open(ReshardPlan plan, int file) throws IOException {
    String path = plan.sources().get(file).stat().path();
    RangedFile found = open.get(path);
    if (found == null) {
      if (open.size() == MOST) {
        Iterator<RangedFile> oldest = open.values().iterator();
        oldest.next().close();
        oldest.remove();
      }
      found = store.open(plan.sources().get(file).stat());
      open.put(path, found);
    }
    return found;
  }

  @Override
  public void close() throws IOException {
    for (RangedFile file : open.values()) {
      file.close();
    }
    open.clear();
  }
}

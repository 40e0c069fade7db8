package io.github.reshard.checkpoint.follow;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.util.Set;

/**
 * Where a checkpoint is read from while its run goes on, in a directory whose other files all tags
 * share. {@code save_checkpoint} writes {@code zero_to_fp32.py} beside the tags again each time
 * (DeepSpeed 0.19.6, runtime/engine.py, {@code _copy_recovery_script}), so that a file there is the
 * same one as long as it has the same length; what is in the tag has to be the very file that was
 * listed.
 *
 * @param store reads it
 * @param directory the one that {@code save_checkpoint} was given
 * @param tagDirectory where the tag is
 * @param leftOut paths of files that are not seen: those that change all the time, such as logs
 */
public record SharedBeside(
    SourceStore store, String directory, String tagDirectory, Set<String> leftOut)
    implements SourceStore {
  public SharedBeside {
    leftOut = Set.copyOf(leftOut);
  }

  @Override
  public Listing list(String of) throws IOException {
    Listing all = store.list(of);
    return leftOut.isEmpty()
        ? all
        : new Listing(
            all.files().stream().filter(file -> !leftOut.contains(file.path())).toList(),
            all.directories());
  }

  /** Whether {@code file} is none of the tag's. */
  public boolean isBeside(FileStat file) {
    String inTag = store.child(tagDirectory, "x");
    return !file.path().startsWith(inTag.substring(0, inTag.length() - 1));
  }

  @Override
  public RangedFile open(FileStat file) throws IOException {
    try {
      return store.open(file);
    } catch (RefusedException e) {
      return store.open(again(file, e));
    }
  }

  @Override
  public void requireUnchanged(FileStat file) throws IOException {
    try {
      store.requireUnchanged(file);
    } catch (RefusedException e) {
      again(file, e);
    }
  }

  /** The file as it is now, if it is one beside the tags and has the same length. */
  private FileStat again(FileStat file, RefusedException changed) throws IOException {
    if (file.path().equals(store.child(directory, file.name()))) {
      for (FileStat now : store.list(directory).files()) {
        if (now.name().equals(file.name()) && now.bytes() == file.bytes()) {
          return now;
        }
      }
    }
    throw changed;
  }

  @Override
  public int readsAtOnce() {
    return store.readsAtOnce();
  }

  @Override
  public String child(String parent, String name) {
    return store.child(parent, name);
  }
}

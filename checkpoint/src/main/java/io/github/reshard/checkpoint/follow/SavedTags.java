package io.github.reshard.checkpoint.follow;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpMetadata;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.function.Consumer;

/**
 * Finds the checkpoints in a directory that a run saves into, in each of the ways they are laid
 * out:
 *
 * <ul>
 *   <li>tags directly in it, as {@code save_checkpoint} makes them, and tags that are paths;
 *   <li>directories that each hold a tag and {@code latest}: Hugging Face Trainer's {@code
 *       checkpoint-N}, Accelerate's and Lightning's.
 * </ul>
 */
public final class SavedTags {
  private static final String LATEST = "latest";
  private static final int LONGEST_TAG = 4096;
  private static final int TRIES = 10;

  /**
   * What Accelerate (1.15, accelerator.py, {@code save_state}) and Lightning (2.6,
   * strategies/deepspeed.py) call every tag: what lies beside such a tag is of that checkpoint.
   */
  private static final Set<String> FIXED_TAGS = Set.of("pytorch_model", "checkpoint");

  private final SourceStore store;
  private final String around;

  /**
   * @param around the directory that is watched
   */
  public SavedTags(SourceStore store, String around) {
    this.store = store;
    this.around = around;
  }

  /**
   * Looks once. What comes or goes while it looks is seen the next time.
   *
   * @return a look at each checkpoint, or part of one, that is there; none where there is no
   *     directory yet
   * @throws RefusedException if something is there that cannot be listed, such as a broken link
   */
  public List<Look> look() throws IOException {
    return look(
        refused -> {
          throw refused;
        });
  }

  /**
   * The same; {@code unlisted} hears why a directory cannot be listed, and the others are looked
   * at.
   */
  public List<Look> look(Consumer<RefusedException> unlisted) throws IOException {
    Optional<SourceStore.Listing> top = list(around);
    if (top.isEmpty()) {
      return List.of();
    }
    List<Look> looks = new ArrayList<>();
    boolean pathTags = latest(top.get()).filter(tag -> tag.contains("/")).isPresent();
    for (String sub : top.get().directories()) {
      if (!Leftovers.isOne(sub)) {
        try {
          lookAt(sub, top.get(), pathTags, looks);
        } catch (RefusedException e) {
          unlisted.accept(e);
        }
      }
    }
    return looks;
  }

  private void lookAt(String sub, SourceStore.Listing top, boolean pathTags, List<Look> looks)
      throws IOException {
    String at = store.child(around, sub);
    Optional<SourceStore.Listing> found = list(at);
    if (found.isEmpty()) {
      return;
    }
    SourceStore.Listing inside = found.get();
    if (isTag(inside)) {
      boolean own = FIXED_TAGS.contains(sub);
      add(new SavedTag("", sub), around, at, inside, own ? top : null, looks);
      return;
    }
    Optional<String> tag = latest(inside);
    if (tag.isPresent() && inside.directories().contains(tag.get())) {
      String tagAt = store.child(at, tag.get());
      Optional<SourceStore.Listing> inTag = list(tagAt);
      if (inTag.isPresent() && isTag(inTag.get())) {
        add(new SavedTag(sub, tag.get()), at, tagAt, inTag.get(), inside, looks);
      }
    } else if (pathTags) {
      for (String step : inside.directories()) {
        String tagAt = store.child(at, step);
        Optional<SourceStore.Listing> inTag = list(tagAt);
        if (inTag.isPresent() && isTag(inTag.get())) {
          add(new SavedTag("", sub + "/" + step), around, tagAt, inTag.get(), null, looks);
        }
      }
    }
  }

  /**
   * @param around what lies around the tag if all of it is of this checkpoint, else null
   */
  private void add(
      SavedTag saved,
      String directory,
      String tagDirectory,
      SourceStore.Listing inTag,
      SourceStore.Listing around,
      List<Look> looks)
      throws IOException {
    List<FileStat> deeper = new ArrayList<>();
    for (String sub : inTag.directories()) {
      addTree(store.child(tagDirectory, sub), deeper);
    }
    List<FileStat> beside = new ArrayList<>();
    if (around != null) {
      around.files().stream().filter(file -> !Leftovers.isOne(file.name())).forEach(beside::add);
      for (String sub : around.directories()) {
        if (!Leftovers.isOne(sub)) {
          addTree(store.child(directory, sub), beside);
        }
      }
    }
    looks.add(new Look(saved, directory, tagDirectory, inTag.files(), deeper, beside));
  }

  /** All files below, but for those of tags. */
  private void addTree(String at, List<FileStat> into) throws IOException {
    Optional<SourceStore.Listing> listing = list(at);
    if (listing.isPresent() && !isTag(listing.get())) {
      into.addAll(listing.get().files());
      for (String sub : listing.get().directories()) {
        addTree(store.child(at, sub), into);
      }
    }
  }

  /** Whether one of DeepSpeed, or a distributed one, lies there: the latter is refused by name. */
  private static boolean isTag(SourceStore.Listing listing) {
    return listing.files().stream()
        .anyMatch(
            file ->
                CheckpointFiles.isTagFile(file.name())
                    || file.name().equals(DcpMetadata.FILE_NAME));
  }

  /** Empty if it is gone. */
  private Optional<SourceStore.Listing> list(String directory) throws IOException {
    for (int left = TRIES - 1; ; left--) {
      try {
        return Optional.of(store.list(directory));
      } catch (NoSuchFileException | FileNotFoundException | NotDirectoryException e) {
        return Optional.empty();
      } catch (RefusedException e) {
        // A file that went while its directory was listed does not go again.
        if (left == 0) {
          throw e;
        }
      }
    }
  }

  /** What {@code latest} says; empty if it is not there or is being written. */
  private Optional<String> latest(SourceStore.Listing listing) throws IOException {
    for (FileStat file : listing.files()) {
      if (file.name().equals(LATEST) && file.bytes() > 0 && file.bytes() <= LONGEST_TAG) {
        ByteBuffer text = ByteBuffer.allocate((int) file.bytes());
        try (RangedFile open = store.open(file)) {
          open.readFully(0, text);
          return Optional.of(new String(text.array(), StandardCharsets.UTF_8).strip());
        } catch (RefusedException | FileNotFoundException | NoSuchFileException e) {
          return Optional.empty();
        }
      }
    }
    return Optional.empty();
  }
}

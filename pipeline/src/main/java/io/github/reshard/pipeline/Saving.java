package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.follow.Look;
import io.github.reshard.checkpoint.follow.SavedTags;
import io.github.reshard.checkpoint.follow.Watch;
import io.github.reshard.checkpoint.follow.Watched;
import io.github.reshard.checkpoint.follow.Wholeness;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.pipeline.storage.Stores;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** A checkpoint that a run may be saving at this moment: waits for it, and says what grows. */
final class Saving {
  private static final long MILLIS_BETWEEN_LOOKS = 250;

  /** Time, as tests turn it. */
  interface Clock {
    /** Milliseconds that only ever grow. */
    long millis();

    void sleep(long millis);

    /** That of this machine. */
    static Clock real() {
      return new Clock() {
        @Override
        public long millis() {
          return System.nanoTime() / 1_000_000;
        }

        @Override
        public void sleep(long millis) {
          try {
            Thread.sleep(millis);
          } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException("interrupted while a run saves the checkpoint", e);
          }
        }
      };
    }
  }

  private final SourceStore store;
  private final String directory;
  private final Optional<String> tag;
  private final Clock clock;

  /**
   * @param directory what {@code save_checkpoint} was given, or the directory of a tag
   * @param tag the tag, or empty for what {@code latest} says
   */
  Saving(SourceStore store, String directory, Optional<String> tag, Clock clock)
      throws IOException {
    int slash = directory.lastIndexOf('/');
    boolean isTag =
        tag.isEmpty()
            && slash > 0
            && list(store, directory).files().stream()
                .anyMatch(file -> CheckpointFiles.isTagFile(file.name()));
    this.store = store;
    this.directory = isTag ? directory.substring(0, slash) : directory;
    this.tag = isTag ? Optional.of(directory.substring(slash + 1)) : tag;
    this.clock = clock;
  }

  /** That of {@code --input}. */
  static Saving of(ReshardOptions options) throws IOException {
    return new Saving(
        Stores.source(options.getInput(), options),
        Stores.directory(options.getInput()),
        Optional.ofNullable(options.getTag()),
        Clock.real());
  }

  /** The checkpoint as it is now; empty if it is not there, or cannot be listed. */
  Optional<Look> look() throws IOException {
    Optional<String> wanted =
        tag.isPresent() ? tag : ResumeInput.latest(store, list(store, directory));
    try {
      return new SavedTags(store, directory)
          .look().stream()
              .filter(look -> look.saved().name().isEmpty())
              .filter(look -> Optional.of(look.saved().tag()).equals(wanted))
              .findFirst();
    } catch (RefusedException e) {
      return Optional.empty();
    }
  }

  private static SourceStore.Listing list(SourceStore store, String directory) throws IOException {
    try {
      return store.list(directory);
    } catch (NoSuchFileException
        | FileNotFoundException
        | NotDirectoryException
        | RefusedException e) {
      // Whoever reads it says why.
      return new SourceStore.Listing(List.of(), List.of());
    }
  }

  /**
   * Returns when the checkpoint is whole.
   *
   * @throws RefusedException if it is not after {@code seconds}, with what is missing, or if it
   *     cannot be resharded
   */
  void await(long seconds) throws IOException {
    Wholeness wholeness = new Wholeness(store);
    Watch watch = new Watch(Long.MAX_VALUE);
    Watched watched = Watched.NOTHING;
    long begin = clock.millis();
    while (true) {
      List<Look> looks = look().stream().toList();
      Watch.Step step = watch.step(watched, looks, wholeness, clock.millis());
      watched = step.watched();
      for (Watch.News news : step.news()) {
        if (news instanceof Watch.Refused refused) {
          throw new RefusedException(news.look().tagDirectory(), refused.message());
        }
        return;
      }
      if (clock.millis() - begin >= seconds * 1000) {
        List<String> missing =
            looks.isEmpty()
                ? List.of("no tag%s is there yet".formatted(tag.map(t -> " " + t).orElse("")))
                : wholeness.missing(looks.get(0), file -> false);
        throw new RefusedException(
            directory,
            "%s after %d s: %s. Wait longer with --wait, or name another checkpoint with --tag."
                .formatted(
                    missing.isEmpty() ? "still changes" : "is not whole",
                    seconds,
                    missing.isEmpty() ? "a run writes to it" : String.join("; ", missing)));
      }
      clock.sleep(MILLIS_BETWEEN_LOOKS);
    }
  }

  /**
   * Why {@code refused} was: if files changed since {@code before}, because a run is saving them.
   */
  RefusedException because(Optional<Look> before, RefusedException refused) throws IOException {
    Optional<Look> after = look();
    if (before.isEmpty() || after.isEmpty()) {
      return refused;
    }
    Map<String, FileStat> then = new HashMap<>();
    before.get().all().forEach(file -> then.put(file.path(), file));
    List<String> grown = new ArrayList<>();
    for (FileStat file : after.get().all()) {
      FileStat old = then.remove(file.path());
      if (old == null) {
        grown.add(file.name() + " has come");
      } else if (old.bytes() != file.bytes()) {
        grown.add("%s went from %d to %d bytes".formatted(file.name(), old.bytes(), file.bytes()));
      } else if (!old.version().equals(file.version())) {
        grown.add(file.name() + " was written again");
      }
    }
    then.values().forEach(gone -> grown.add(gone.name() + " is gone"));
    return grown.isEmpty()
        ? refused
        : new RefusedException(
            after.get().tagDirectory(),
            "is being saved right now: %s. Wait until it is whole, for example with --wait=60s."
                .formatted(String.join("; ", grown)),
            refused);
  }
}

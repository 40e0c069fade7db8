package io.github.reshard.checkpoint.follow;

import io.github.reshard.checkpoint.storage.FileStat;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;

/**
 * What one look at a checkpoint showed.
 *
 * @param saved which one
 * @param directory what {@code save_checkpoint} was given
 * @param tagDirectory where its tag is
 * @param files directly in the directory of the tag
 * @param deeper in directories of the tag
 * @param beside around the tag and of this checkpoint only; empty where all tags share them
 */
public record Look(
    SavedTag saved,
    String directory,
    String tagDirectory,
    List<FileStat> files,
    List<FileStat> deeper,
    List<FileStat> beside) {
  public Look {
    files = List.copyOf(files);
    deeper = List.copyOf(deeper);
    beside = List.copyOf(beside);
  }

  /** All files that are part of it. */
  public List<FileStat> all() {
    return Stream.of(files, deeper, beside).flatMap(List::stream).toList();
  }

  /** Bytes of all files. */
  public long bytes() {
    return all().stream().mapToLong(FileStat::bytes).sum();
  }

  /**
   * When its newest file was written, by the clock of the store, in milliseconds since 1970; 0
   * where the store does not say.
   */
  public long newestMillis() {
    return all().stream().mapToLong(file -> file.written().toEpochMilli()).max().orElse(0);
  }

  /**
   * A number for every file in the tag's directory, in order: another one when it is written anew.
   */
  public long[] versions() {
    return files.stream().mapToLong(Look::version).sorted().toArray();
  }

  /** One number for all files: another one when any of them is another, more or gone. */
  public long fingerprint() {
    List<String> lines = new ArrayList<>();
    all().forEach(file -> lines.add(Long.toHexString(version(file))));
    lines.sort(null);
    return hash(String.join(" ", lines));
  }

  /** A number for {@code file} as it is now. */
  static long version(FileStat file) {
    return hash(file.path() + "\n" + file.bytes() + "\n" + file.version());
  }

  /** FNV-1a of 64 bits, which is the same on every machine. */
  private static long hash(String text) {
    long hash = 0xcbf29ce484222325L;
    for (byte b : text.getBytes(StandardCharsets.UTF_8)) {
      hash = (hash ^ (b & 0xff)) * 0x100000001b3L;
    }
    return hash;
  }
}

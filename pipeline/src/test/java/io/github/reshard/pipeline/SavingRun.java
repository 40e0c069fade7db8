package io.github.reshard.pipeline;

import io.github.reshard.testing.Scratch;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.List;
import java.util.stream.Stream;

/**
 * A directory that a training run saves into: tags with the files of a checkpoint of the corpus.
 */
final class SavingRun {
  final Path directory;
  private final Path of;
  private long millis = 1_700_000_000_000L;

  SavingRun(Path directory) {
    this.directory = directory;
    this.of = Scratch.source().resolve(Scratch.TAG);
  }

  private static List<Path> in(Path at) {
    try (Stream<Path> files = Files.list(at)) {
      return files.sorted().toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Saves a whole checkpoint, as rank 0 and the others would. */
  void save(String tag) throws IOException {
    for (Path file : in(of)) {
      saveFile(tag, file.getFileName().toString());
    }
    Files.writeString(directory.resolve("latest"), tag);
  }

  /** Saves one file of it, at a later time than all before. */
  Path saveFile(String tag, String name) throws IOException {
    Path file = directory.resolve(tag).resolve(name);
    Files.createDirectories(file.getParent());
    Files.write(file, Files.readAllBytes(of.resolve(name)));
    millis += 1000;
    Files.setLastModifiedTime(file, FileTime.fromMillis(millis));
    return file;
  }

  /** Saves a whole checkpoint with one byte of a weight changed. */
  void saveDamaged(String tag) throws IOException {
    save(tag);
    Path shard = directory.resolve(tag).resolve(Scratch.shard(0));
    byte[] bytes = Files.readAllBytes(shard);
    bytes[bytes.length / 2] ^= 1;
    Files.write(shard, bytes);
    millis += 1000;
    Files.setLastModifiedTime(shard, FileTime.fromMillis(millis));
  }

  void delete(String tag) throws IOException {
    for (Path file : in(directory.resolve(tag))) {
      Files.delete(file);
    }
    Files.delete(directory.resolve(tag));
  }
}

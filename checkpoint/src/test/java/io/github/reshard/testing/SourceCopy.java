package io.github.reshard.testing;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.function.Consumer;

/** A copy of a case's source that a test may damage. */
public record SourceCopy(Path directory, String tag) {
  public static SourceCopy of(GoldenCase golden, Path directory) throws IOException {
    Files.createDirectories(directory.resolve(golden.tag()));
    for (String file : CheckpointComparison.fileNames(golden.source())) {
      Files.copy(golden.source().resolve(file), directory.resolve(file));
    }
    return new SourceCopy(directory, golden.tag());
  }

  public Path file(String name) {
    return directory.resolve(tag).resolve(name);
  }

  /** Changes the bytes of a storage and leaves the checksum as it was. */
  public void damage(String name, String storage, Consumer<ByteBuffer> change) {
    Scratch.damage(file(name), storage, change);
  }

  /** Changes the bytes of a storage and its checksum with them. */
  public void change(String name, String storage, Consumer<ByteBuffer> change) {
    Scratch.change(file(name), storage, change);
  }

  /** Lets two files change their names. */
  public void swap(String one, String other) {
    Scratch.swap(file(one), file(other));
  }
}

package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.List;

/**
 * For a checkpoint that is only to be read and proven: what is written is forgotten and nothing is
 * published. What the job itself needs is in a temporary file, which all workers must see.
 */
public final class NoTargetStore implements TargetStore {
  private static final long serialVersionUID = 1L;

  /** Where the job's own file is; a {@link Path} cannot be serialized. */
  private String kept = "";

  private final String directory;

  /** Keeps it where this machine keeps temporary files. */
  public NoTargetStore() {
    this(System.getProperty("java.io.tmpdir"));
  }

  /**
   * @param directory where the job's own file goes, which all workers see
   */
  public NoTargetStore(String directory) {
    this.directory = directory;
  }

  @Override
  public void begin() {}

  @Override
  public void keep(byte[] content) throws IOException {
    Path file;
    try {
      file = Files.createTempFile(Path.of(directory), "reshard-", ".plan");
      Files.write(file, content);
    } catch (IOException e) {
      throw new OutputException(
          directory, "a temporary file cannot be written: " + IoReason.of(e), e);
    }
    file.toFile().deleteOnExit();
    kept = file.toString();
  }

  @Override
  public byte[] kept() throws IOException {
    try {
      return Files.readAllBytes(Path.of(kept));
    } catch (NoSuchFileException e) {
      throw new OutputException(kept, "is gone; something removed this run's temporary file.", e);
    }
  }

  @Override
  public PositionalFile open(String path) {
    return new Nowhere();
  }

  @Override
  public void finish(String path, long bytes, boolean executable) {}

  @Override
  public boolean publish(List<String> paths, String manifest, byte[] content) throws IOException {
    abandon();
    return true;
  }

  @Override
  public void abandon() throws IOException {
    if (!kept.isEmpty()) {
      Files.deleteIfExists(Path.of(kept));
    }
  }

  private static final class Nowhere implements PositionalFile {
    @Override
    public void write(long position, ByteBuffer source) {
      source.position(source.limit());
    }

    @Override
    public void close() {}
  }
}

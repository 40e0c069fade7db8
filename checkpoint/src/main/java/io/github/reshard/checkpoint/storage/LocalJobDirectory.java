package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.OutputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.Optional;
import java.util.UUID;
import java.util.stream.Stream;

/** A {@link JobDirectory} on a file system that all machines of the job see. */
public final class LocalJobDirectory implements JobDirectory {
  private static final long serialVersionUID = 1L;

  /** Begins the names of files that are being written. */
  private static final String UNFINISHED = ".";

  private final String output;

  /**
   * @param output the directory that it lies in
   */
  public LocalJobDirectory(String output) {
    this.output = output;
  }

  private Path directory() {
    return Path.of(output, NAME);
  }

  private LocalLock lock() {
    return new LocalLock(directory().resolve(LOCK));
  }

  @Override
  public void acquire(String run) throws IOException {
    try {
      Files.createDirectories(directory());
      lock().takeForJob(output, run);
    } catch (IOException e) {
      throw new OutputException(output, "cannot be written: " + e, e);
    }
  }

  @Override
  public void clear() throws IOException {
    try (Stream<Path> files = Files.list(directory())) {
      for (Path file : files.toList()) {
        String name = file.getFileName().toString();
        if (!name.equals(LOCK) && !name.startsWith(LOCK + ".")) {
          Files.deleteIfExists(file);
        }
      }
    }
  }

  @Override
  public boolean renew(String run) throws IOException {
    return lock().adopt(run);
  }

  @Override
  public void put(String name, byte[] content) {
    Path file = directory().resolve(name);
    Path unfinished = directory().resolve(UNFINISHED + name + "." + UUID.randomUUID());
    try {
      try {
        Files.write(unfinished, content);
        Files.move(
            unfinished, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
      } finally {
        Files.deleteIfExists(unfinished);
      }
    } catch (IOException e) {
      throw new OutputException(file.toString(), "cannot be written: " + e, e);
    }
  }

  @Override
  public Optional<byte[]> get(String name) throws IOException {
    try {
      return Optional.of(Files.readAllBytes(directory().resolve(name)));
    } catch (NoSuchFileException e) {
      return Optional.empty();
    }
  }

  @Override
  public List<String> names() throws IOException {
    try (Stream<Path> files = Files.list(directory())) {
      return files
          .map(file -> file.getFileName().toString())
          .filter(name -> !name.startsWith(UNFINISHED) && !name.startsWith(LOCK))
          .sorted()
          .toList();
    } catch (NoSuchFileException e) {
      return List.of();
    }
  }

  @Override
  public void delete(String name) throws IOException {
    Files.deleteIfExists(directory().resolve(name));
  }

  @Override
  public void release(String run) throws IOException {
    if (!lock().isAnothers(run)) {
      LocalStagingStore.deleteTree(directory());
    }
  }
}

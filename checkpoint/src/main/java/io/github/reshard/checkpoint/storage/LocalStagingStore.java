package io.github.reshard.checkpoint.storage;

import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.PosixFilePermission;
import java.util.HashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.locks.Lock;
import java.util.concurrent.locks.ReentrantLock;
import java.util.stream.Stream;

/**
 * A place on a local file system whose files grow in a directory of their run until published. The
 * run is drawn when the job is planned and travels with it: a worker that is late writes into the
 * directory of its own run, or finds it gone.
 */
abstract class LocalStagingStore implements TargetStore {
  private static final long serialVersionUID = 1L;
  private static final Object PUBLISHING = new Object();
  private static final String DISCARDED = ".discarded";

  /**
   * A file system lets one write into a file at once, and Linux lets the others spin meanwhile.
   * Here they sleep; files that share a turn by chance are few.
   */
  private static final Lock[] TURNS =
      Stream.generate(ReentrantLock::new).limit(256).toArray(Lock[]::new);

  private final String run;

  LocalStagingStore(String run) {
    this.run = run;
  }

  /** Where the output goes. */
  abstract Path directory();

  /** Where unpublished files grow, those of each run in a directory of it. */
  abstract Path unpublished();

  final Path staging() {
    return unpublished().resolve(run);
  }

  /** Beside {@link #staging}, which may become the output as it is. */
  private Path keptFile() {
    return unpublished().resolve(run + ".plan");
  }

  /** Who may write here; a run holds it from its beginning to its end. */
  abstract LocalLock lock();

  /**
   * Takes the output, removes what earlier runs left in it, and makes the place where this one's
   * files grow.
   */
  final void hold(String output) throws IOException {
    lock().acquire(output, run);
    try {
      discardUnpublished();
      Files.createDirectories(staging());
    } catch (IOException | RuntimeException e) {
      lock().release(run);
      throw e;
    }
  }

  /** Gives the output free without having written anything. */
  final void release() throws IOException {
    discardUnpublished();
    lock().release(run);
  }

  /** Is there while publishing is under way, and left behind by a crash in the middle of it. */
  abstract Path marker();

  /**
   * Makes the staged files the output; only one at a time runs this.
   *
   * @return whether nothing unpublished is left
   */
  abstract boolean replace(List<String> paths, String manifest, byte[] content) throws IOException;

  @Override
  public void keep(byte[] content) {
    try {
      Files.write(keptFile(), content);
    } catch (IOException e) {
      throw new OutputException(keptFile().toString(), "cannot be written: " + IoReason.of(e), e);
    }
  }

  @Override
  public byte[] kept() {
    try {
      return Files.readAllBytes(keptFile());
    } catch (NoSuchFileException e) {
      throw new OutputException(
          keptFile().toString(),
          "is gone, or this machine does not see it. Another run with the same output has begun"
              + " since, something deleted it, or --output is no directory that all workers share.",
          e);
    } catch (IOException e) {
      throw new OutputException(keptFile().toString(), "cannot be read: " + IoReason.of(e), e);
    }
  }

  @Override
  public PositionalFile open(String path) throws IOException {
    Path file = staging().resolve(path);
    try {
      makeDirectory(file.getParent());
      FileChannel channel =
          FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
      return new LocalPositionalFile(file, channel);
    } catch (IOException e) {
      throw new OutputException(file.toString(), "cannot be created: " + IoReason.of(e), e);
    }
  }

  /**
   * Makes {@code directory} and those above it, but not the one that all files of the run lie in: a
   * worker that is late must not bring back what was published.
   */
  private void makeDirectory(Path directory) throws IOException {
    if (directory.equals(staging()) || Files.isDirectory(directory)) {
      return;
    }
    makeDirectory(directory.getParent());
    try {
      Files.createDirectory(directory);
    } catch (FileAlreadyExistsException e) {
      if (!Files.isDirectory(directory)) {
        throw e;
      }
    }
  }

  private record LocalPositionalFile(Path path, FileChannel channel) implements PositionalFile {
    @Override
    public void write(long position, ByteBuffer source) {
      Lock turn = TURNS[Math.floorMod(path.hashCode(), TURNS.length)];
      turn.lock();
      try {
        long at = position;
        while (source.hasRemaining()) {
          at += channel.write(source, at);
        }
      } catch (IOException e) {
        throw new OutputException(path.toString(), "cannot be written: " + IoReason.of(e), e);
      } finally {
        turn.unlock();
      }
    }

    @Override
    public void close() {
      try {
        channel.close();
      } catch (IOException e) {
        throw new OutputException(path.toString(), "cannot be written: " + IoReason.of(e), e);
      }
    }
  }

  @Override
  public void finish(String path, long bytes, boolean executable) throws IOException {
    Path file = staging().resolve(path);
    try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
      if (channel.size() != bytes) {
        throw new OutputException(
            file.toString(),
            "has %d bytes where %d were written. Something else writes to it, or the file system lost them."
                .formatted(channel.size(), bytes));
      }
      markExecutable(file, executable);
      channel.force(true);
    } catch (IOException e) {
      throw new OutputException(file.toString(), "cannot be made durable: " + IoReason.of(e), e);
    }
  }

  /** Whoever may read a program may run it. */
  private static void markExecutable(Path file, boolean executable) throws IOException {
    if (!executable || !file.getFileSystem().supportedFileAttributeViews().contains("posix")) {
      return;
    }
    Set<PosixFilePermission> permissions = new HashSet<>(Files.getPosixFilePermissions(file));
    if (permissions.contains(PosixFilePermission.OWNER_READ)) {
      permissions.add(PosixFilePermission.OWNER_EXECUTE);
    }
    if (permissions.contains(PosixFilePermission.GROUP_READ)) {
      permissions.add(PosixFilePermission.GROUP_EXECUTE);
    }
    if (permissions.contains(PosixFilePermission.OTHERS_READ)) {
      permissions.add(PosixFilePermission.OTHERS_EXECUTE);
    }
    Files.setPosixFilePermissions(file, permissions);
  }

  @Override
  public boolean publish(List<String> paths, String manifest, byte[] content) throws IOException {
    try {
      if (!Files.exists(staging())) {
        requirePublished(paths);
        return true;
      }
      // Runners may run this twice at once: in one process the monitor keeps the two apart, in two
      // processes the lock does.
      synchronized (PUBLISHING) {
        try (FileChannel channel =
                FileChannel.open(marker(), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
            FileLock lock = channel.lock()) {
          if (lock.isValid() && Files.exists(staging())) {
            lock().requireHeld(directory().toString(), run);
            boolean cleared = replace(paths, manifest, content);
            lock().release(run);
            return cleared;
          }
          requirePublished(paths);
          return true;
        }
      }
    } catch (IOException e) {
      throw new OutputException(
          directory().toString(), "cannot be published: " + IoReason.of(e), e);
    }
  }

  @Override
  public Optional<byte[]> published(String path) throws IOException {
    try {
      return Optional.of(Files.readAllBytes(directory().resolve(path)));
    } catch (NoSuchFileException e) {
      return Optional.empty();
    }
  }

  private void requirePublished(List<String> paths) {
    firstMissing(directory(), paths)
        .ifPresent(
            missing -> {
              throw gone(missing);
            });
  }

  static Optional<Path> firstMissing(Path directory, List<String> paths) {
    return paths.stream().map(directory::resolve).filter(path -> !Files.exists(path)).findFirst();
  }

  static OutputException gone(Path missing) {
    return new OutputException(
        missing.toString(),
        "is gone before it was published: did something delete it, or another run write to the same"
            + " output? Run again.");
  }

  @Override
  public void abandon() throws IOException {
    if (lock().isAnothers(run)) {
      discard(staging());
      Files.deleteIfExists(keptFile());
      return;
    }
    if (!Files.exists(marker())) {
      discardUnpublished();
    }
    lock().release(run);
  }

  /**
   * Removes what this run and those before it left. Each directory gets another name first, so that
   * a worker that still writes to it cannot put anything in while it is emptied.
   */
  final void discardUnpublished() throws IOException {
    if (!Files.exists(unpublished())) {
      return;
    }
    List<Path> runs;
    try (Stream<Path> children = Files.list(unpublished())) {
      runs = children.sorted().toList();
    } catch (NoSuchFileException e) {
      return;
    }
    for (Path left : runs) {
      discard(left);
    }
    Files.deleteIfExists(unpublished());
  }

  /** Others may do the same at this moment. */
  private static void discard(Path left) throws IOException {
    Path discarded = left;
    if (Files.exists(left) && !left.toString().endsWith(DISCARDED)) {
      discarded = left.resolveSibling(left.getFileName() + DISCARDED);
      try {
        Files.move(left, discarded, StandardCopyOption.ATOMIC_MOVE);
      } catch (NoSuchFileException e) {
        // Another one has given it that name.
      }
    }
    deleteTree(discarded);
  }

  /**
   * Removes what is left now that the output is whole: a failure changes nothing about that.
   *
   * @param replaced what the output took the place of
   * @return whether all of it is gone
   */
  final boolean clear(Path replaced) {
    boolean cleared = true;
    try {
      deleteTree(replaced);
      discardUnpublished();
    } catch (IOException e) {
      cleared = false;
    }
    try {
      Files.deleteIfExists(marker());
    } catch (IOException e) {
      cleared = false;
    }
    return cleared;
  }

  static void write(Path file, byte[] content) throws IOException {
    try (FileChannel channel =
        FileChannel.open(
            file,
            StandardOpenOption.CREATE,
            StandardOpenOption.WRITE,
            StandardOpenOption.TRUNCATE_EXISTING)) {
      ByteBuffer bytes = ByteBuffer.wrap(content);
      while (bytes.hasRemaining()) {
        channel.write(bytes);
      }
      channel.force(true);
    }
  }

  /** Makes renames in a directory durable. */
  static void sync(Path directory) throws IOException {
    try (FileChannel channel = FileChannel.open(directory, StandardOpenOption.READ)) {
      channel.force(true);
    }
  }

  /** Others may delete it as well at this moment. */
  static void deleteTree(Path root) throws IOException {
    if (!Files.exists(root)) {
      return;
    }
    Files.walkFileTree(
        root,
        new SimpleFileVisitor<>() {
          @Override
          public FileVisitResult visitFile(Path file, BasicFileAttributes attributes)
              throws IOException {
            Files.deleteIfExists(file);
            return FileVisitResult.CONTINUE;
          }

          @Override
          public FileVisitResult visitFileFailed(Path file, IOException failure)
              throws IOException {
            if (failure instanceof NoSuchFileException) {
              return FileVisitResult.CONTINUE;
            }
            throw failure;
          }

          @Override
          public FileVisitResult postVisitDirectory(Path directory, IOException failure)
              throws IOException {
            if (failure != null && !(failure instanceof NoSuchFileException)) {
              throw failure;
            }
            Files.deleteIfExists(directory);
            return FileVisitResult.CONTINUE;
          }
        });
  }
}

package io.github.reshard.pipeline.storage;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * One checkpoint whose nodes wrote to disks of their own ({@code use_node_local_storage}), which
 * are mounted or copied side by side: a directory is all directories that {@code /mnt/node*}{@code
 * /ckpt} stands for, together. What several of them hold must be the same.
 */
final class NodeDisks implements SourceStore {
  private static final long serialVersionUID = 1L;
  private static final String ANYTHING = "*";

  /** Up to this length files are compared byte by byte before their checksums are. */
  private static final long SMALL_BYTES = 1L << 20;

  private static final int CHUNK_BYTES = 1 << 20;

  private final LocalSourceStore disk = new LocalSourceStore();

  /** Whether {@code path} is no directory but a pattern of some. */
  static boolean isPattern(String path) {
    return path.contains(ANYTHING) && !Files.exists(Path.of(path));
  }

  /** The directories that {@code pattern} stands for, sorted. */
  static List<Path> directories(String pattern) throws IOException {
    List<Path> found = List.of(Path.of(pattern.startsWith("/") ? "/" : ""));
    for (String step : pattern.split("/", -1)) {
      if (step.isEmpty()) {
        continue;
      }
      List<Path> next = new ArrayList<>();
      for (Path at : found) {
        if (!step.contains(ANYTHING)) {
          next.add(at.resolve(step));
        } else if (Files.isDirectory(at)) {
          Pattern names = names(step);
          try (Stream<Path> children = Files.list(at)) {
            children
                .filter(child -> names.matcher(child.getFileName().toString()).matches())
                .sorted()
                .forEach(next::add);
          }
        }
      }
      found = next;
    }
    return found.stream().filter(Files::isDirectory).toList();
  }

  /** As in a shell, a name that begins with a dot is meant only by a pattern that does. */
  private static Pattern names(String step) {
    String text =
        Stream.of(step.split(Pattern.quote(ANYTHING), -1))
            .map(Pattern::quote)
            .collect(Collectors.joining(".*"));
    return Pattern.compile((step.startsWith(ANYTHING) ? "(?!\\.)" : "") + text);
  }

  @Override
  public Listing list(String directory) throws IOException {
    List<Path> disks = directories(directory);
    if (disks.isEmpty()) {
      throw new NoSuchFileException(directory);
    }
    SortedMap<String, FileStat> files = new TreeMap<>();
    TreeSet<String> directories = new TreeSet<>();
    for (Path on : disks) {
      Listing listing;
      try {
        listing = disk.list(on.toString());
      } catch (NoSuchFileException | NotDirectoryException e) {
        throw new RefusedException(on.toString(), "was there a moment ago and is gone.", e);
      }
      directories.addAll(listing.directories());
      for (FileStat file : listing.files()) {
        FileStat other = files.putIfAbsent(file.name(), file);
        if (other != null) {
          requireSame(other, file);
        }
      }
    }
    return new Listing(List.copyOf(files.values()), List.copyOf(directories));
  }

  private void requireSame(FileStat a, FileStat b) throws IOException {
    if (a.bytes() != b.bytes() || !isSame(a, b)) {
      throw new RefusedException(
          b.path(),
          "is not what %s holds. They are of two checkpoints, or one is damaged; keep the files of one."
              .formatted(a.path()));
    }
  }

  private boolean isSame(FileStat a, FileStat b) throws IOException {
    try (RangedFile fileA = disk.open(a);
        RangedFile fileB = disk.open(b)) {
      if (a.bytes() > SMALL_BYTES && a.name().endsWith(".pt")) {
        TorchFile torchA = TorchFile.read(fileA);
        TorchFile torchB = TorchFile.read(fileB);
        if (torchA.hasCrcs() && torchB.hasCrcs()) {
          return torchA.entries().equals(torchB.entries());
        }
      }
      ByteBuffer bytesA = ByteBuffer.allocate(CHUNK_BYTES);
      ByteBuffer bytesB = ByteBuffer.allocate(CHUNK_BYTES);
      for (long at = 0; at < a.bytes(); at += CHUNK_BYTES) {
        int length = (int) Math.min(CHUNK_BYTES, a.bytes() - at);
        fileA.readFully(at, bytesA.clear().limit(length));
        fileB.readFully(at, bytesB.clear().limit(length));
        if (!bytesA.flip().equals(bytesB.flip())) {
          return false;
        }
      }
      return true;
    }
  }

  @Override
  public RangedFile open(FileStat file) throws IOException {
    return disk.open(file);
  }

  @Override
  public String child(String directory, String name) {
    if (name.contains(ANYTHING)) {
      throw new RefusedException(
          directory, "holds '%s', a name that is itself a pattern. Rename it.".formatted(name));
    }
    return directory + "/" + name;
  }
}

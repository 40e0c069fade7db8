package io.github.reshard.testing;

import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.stream.Stream;
import java.util.zip.CRC32;

/** A checkpoint of the corpus in a directory where it may be damaged. */
public final class Scratch {
  /** ZeRO-2, bf16, 6 ranks. */
  public static final String CASE = "z2-bf16-clip";

  public static final String TAG = "global_step3";
  public static final String MODEL = "mp_rank_00_model_states.pt";

  private Scratch() {}

  public static Path source() {
    return Path.of(System.getProperty("reshard.testdata"), "corpus", CASE, "source");
  }

  public static String shard(int rank) {
    return "bf16_zero_pp_rank_" + rank + "_mp_rank_00_optim_states.pt";
  }

  public static Path copyOf(Path from, Path to) {
    try (Stream<Path> all = Files.walk(from)) {
      for (Path path : all.toList()) {
        Path copy = to.resolve(from.relativize(path).toString());
        if (Files.isDirectory(path)) {
          Files.createDirectories(copy);
        } else {
          Files.copy(path, copy);
        }
      }
      return to;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Every file below {@code root} with its bytes as text that can be compared. */
  public static SortedMap<String, String> contents(Path root) {
    SortedMap<String, String> contents = new TreeMap<>();
    if (!Files.exists(root)) {
      return contents;
    }
    try (Stream<Path> all = Files.walk(root)) {
      for (Path path : all.filter(Files::isRegularFile).toList()) {
        byte[] bytes = Files.readAllBytes(path);
        if (path.getFileName().toString().equals("reshard-manifest.json")) {
          bytes =
              new String(bytes, StandardCharsets.UTF_8)
                  .replaceFirst("\"seconds\" : .*", "")
                  .replaceFirst("\\s*\"run\" : .*", "")
                  .getBytes(StandardCharsets.UTF_8);
        }
        CRC32 crc = new CRC32();
        crc.update(bytes);
        contents.put(
            root.relativize(path).toString(),
            bytes.length + " bytes, " + Long.toHexString(crc.getValue()));
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return contents;
  }

  /** Writes {@code file} again with another pickle and the same storages. */
  public static void edit(Path file, Consumer<PyObject> change) {
    rewrite(file, change, (key, bytes) -> {});
  }

  /** Receives the bytes of a storage, which it may change. */
  public interface Storage {
    void change(String key, byte[] bytes);
  }

  /** As {@link #edit}, also with other bytes in the storages and the CRCs that belong to them. */
  @SuppressWarnings("ByteBufferBackingArray") // Each of them wraps an array of its own.
  public static void rewrite(Path file, Consumer<PyObject> change, Storage storage) {
    EditedTorchFile edited = new EditedTorchFile(file);
    change.accept(edited.root().node());
    edited.storages().forEach((key, bytes) -> storage.change(key, bytes.array()));
    edited.write();
  }

  /**
   * Writes {@code file} again with other bytes in one storage, and the CRC that belongs to them.
   */
  public static void change(Path file, String storage, Consumer<ByteBuffer> change) {
    EditedTorchFile edited = new EditedTorchFile(file);
    change.accept(edited.storage(storage));
    edited.write();
  }

  /** Changes the bytes of a storage and leaves the CRC as it was. */
  public static void damage(Path file, String storage, Consumer<ByteBuffer> change) {
    try {
      TorchContent content = TorchContent.read(file);
      TorchFile.Entry entry = content.file().storage(storage).orElseThrow();
      change.accept(
          ByteBuffer.wrap(content.bytes(), (int) entry.payloadOffset(), (int) entry.bytes())
              .slice()
              .order(ByteOrder.LITTLE_ENDIAN));
      Files.write(file, content.bytes());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Writes {@code file} again with an archive of another name. */
  public static void rename(Path file, String archiveName) {
    EditedTorchFile edited = new EditedTorchFile(file);
    edited.setArchiveName(archiveName);
    edited.write();
  }

  /** Lets two files change their names. */
  public static void swap(Path one, Path other) {
    try {
      Path aside = one.resolveSibling("aside");
      Files.move(one, aside);
      Files.move(other, one);
      Files.move(aside, other);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** The container of a file. */
  public static TorchFile read(Path path) {
    return TorchContent.read(path).file();
  }
}

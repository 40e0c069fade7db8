package io.github.reshard.pipeline;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.Pickle;
import io.github.reshard.checkpoint.pickle.PickleWriter;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.StorageSize;
import io.github.reshard.checkpoint.torch.TorchFile;
import io.github.reshard.checkpoint.torch.TorchFileLayout;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.stream.Stream;
import java.util.zip.CRC32;

/** A checkpoint of the corpus in a directory where it may be damaged. */
final class Scratch {
  /** ZeRO-2, bf16, 6 ranks. */
  static final String CASE = "z2-bf16-clip";

  static final String TAG = "global_step3";
  static final String MODEL = "mp_rank_00_model_states.pt";

  private Scratch() {}

  static Path source() {
    return Path.of(System.getProperty("reshard.testdata"), "corpus", CASE, "source");
  }

  static String shard(int rank) {
    return "bf16_zero_pp_rank_" + rank + "_mp_rank_00_optim_states.pt";
  }

  static Path copyOf(Path from, Path to) {
    try (Stream<Path> all = Files.walk(from)) {
      for (Path path : all.toList()) {
        Files.copy(path, to.resolve(from.relativize(path).toString()));
      }
      return to;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Every file below {@code root} with its bytes as text that can be compared. */
  static SortedMap<String, String> contents(Path root) {
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
  static void edit(Path file, Consumer<PyObject> change) {
    rewrite(file, change, (key, bytes) -> {});
  }

  /** Receives the bytes of a storage, which it may change. */
  interface Storage {
    void change(String key, byte[] bytes);
  }

  /** As {@link #edit}, also with other bytes in the storages and the CRCs that belong to them. */
  static void rewrite(Path file, Consumer<PyObject> change, Storage storage) {
    try {
      rewrite(file, read(file).archiveName(), change, storage);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Writes {@code file} again with an archive of another name. */
  static void rename(Path file, String archiveName) {
    rewrite(file, archiveName, root -> {}, (key, bytes) -> {});
  }

  private static void rewrite(
      Path file, String archiveName, Consumer<PyObject> change, Storage storage) {
    try {
      byte[] original = Files.readAllBytes(file);
      TorchFile torch = read(file);
      Pickle pickle = torch.parse();
      change.accept(pickle.root());
      List<StorageSize> sizes = new ArrayList<>();
      Map<String, Integer> crcs = new HashMap<>();
      Map<String, byte[]> payloads = new HashMap<>();
      for (TorchFile.Entry entry : torch.entries()) {
        if (entry.name().startsWith("data/")) {
          String key = entry.name().substring("data/".length());
          byte[] payload = new byte[(int) entry.bytes()];
          System.arraycopy(original, (int) entry.payloadOffset(), payload, 0, payload.length);
          storage.change(key, payload);
          CRC32 crc = new CRC32();
          crc.update(payload);
          sizes.add(new StorageSize(key, payload.length));
          crcs.put(key, (int) crc.getValue());
          payloads.put(key, payload);
        }
      }
      byte[] written = PickleWriter.write(pickle.root(), pickle.protocol());
      TorchFileLayout layout =
          TorchFileLayout.plan(
              torch.style(),
              archiveName,
              written,
              sizes,
              torch.serializationId().orElse(new byte[0]));
      byte[] bytes = new byte[(int) layout.totalBytes()];
      for (ByteSegment segment : layout.segments(crcs)) {
        System.arraycopy(segment.bytes(), 0, bytes, (int) segment.offset(), segment.bytes().length);
      }
      payloads.forEach(
          (key, payload) ->
              System.arraycopy(payload, 0, bytes, (int) layout.payloadOffset(key), payload.length));
      Files.write(file, bytes);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  static TorchFile read(Path path) throws IOException {
    FileStat stat =
        new LocalSourceStore()
            .list(path.toAbsolutePath().getParent().toString()).files().stream()
                .filter(file -> file.name().equals(path.getFileName().toString()))
                .findFirst()
                .orElseThrow();
    try (RangedFile file = new LocalSourceStore().open(stat)) {
      return TorchFile.read(file);
    }
  }

  static <T extends Throwable> Optional<T> find(Throwable thrown, Class<T> type) {
    for (Throwable at = thrown; at != null; at = at.getCause()) {
      if (type.isInstance(at)) {
        return Optional.of(type.cast(at));
      }
    }
    return Optional.empty();
  }

  /** Why resharding {@code input} is refused. */
  static String refusal(Path input, Path output, int worldSize) {
    return refusal(Resharding.options(input, output, worldSize));
  }

  static String refusal(ReshardOptions options) {
    Throwable thrown = null;
    try {
      Resharding.run(options);
    } catch (RuntimeException e) {
      thrown = e;
    }
    Throwable found = thrown;
    return find(thrown, RefusedException.class)
        .map(Throwable::getMessage)
        .orElseThrow(() -> new AssertionError("expected a refusal, found " + found, found));
  }
}

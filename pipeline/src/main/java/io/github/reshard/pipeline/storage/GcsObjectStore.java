package io.github.reshard.pipeline.storage;

import com.google.cloud.storage.Blob;
import com.google.cloud.storage.BlobId;
import com.google.cloud.storage.BlobInfo;
import com.google.cloud.storage.Storage;
import com.google.cloud.storage.StorageException;
import io.github.reshard.checkpoint.IoReason;
import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.torch.Crc32Combine;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * A bucket of Google Cloud Storage. Each upload's CRC-32C is compared with the one that the store
 * found, and a composed object's with the one that its components' give; generations are asked for
 * in every call that changes something.
 */
final class GcsObjectStore implements ObjectStore {
  private static final long serialVersionUID = 1L;

  /** Google Cloud Storage composes this many at most in one request. */
  static final int MOST_COMPONENTS = 32;

  private final String endpoint;
  private final String bucket;

  GcsObjectStore(String endpoint, String bucket) {
    this.endpoint = endpoint;
    this.bucket = bucket;
  }

  Storage storage() {
    return GcsClient.at(endpoint);
  }

  @Override
  public String uri(String name) {
    return "gs://" + bucket + "/" + name;
  }

  OutputException failure(String name, StorageException e) {
    return new OutputException(uri(name), GcsClient.explain(e, bucket, false), e);
  }

  private static Found found(Blob blob) {
    return new Found(
        blob.getName(),
        blob.getSize(),
        blob.getGeneration() + "/" + blob.getCrc32c(),
        blob.getCreateTimeOffsetDateTime() == null
            ? 0
            : blob.getCreateTimeOffsetDateTime().toInstant().toEpochMilli(),
        blob.getMetadata() == null ? Map.of() : blob.getMetadata());
  }

  private static long generation(Found object) {
    return Long.parseLong(object.version().substring(0, object.version().indexOf('/')));
  }

  private static int crc32c(Found object) {
    String text = object.version().substring(object.version().indexOf('/') + 1);
    return ByteBuffer.wrap(Base64.getDecoder().decode(text)).getInt();
  }

  static String base64(int crc32c) {
    return Base64.getEncoder()
        .encodeToString(ByteBuffer.allocate(Integer.BYTES).putInt(crc32c).array());
  }

  @Override
  public List<Found> list(String prefix) {
    try {
      List<Found> all = new ArrayList<>();
      storage()
          .list(bucket, Storage.BlobListOption.prefix(prefix))
          .iterateAll()
          .forEach(blob -> all.add(found(blob)));
      return all;
    } catch (StorageException e) {
      throw failure(prefix, e);
    }
  }

  @Override
  public Optional<Found> find(String name) {
    try {
      return Optional.ofNullable(storage().get(BlobId.of(bucket, name))).map(GcsObjectStore::found);
    } catch (StorageException e) {
      throw failure(name, e);
    }
  }

  BlobInfo.Builder info(String name, Map<String, String> metadata) {
    return BlobInfo.newBuilder(bucket, name)
        .setContentType("application/octet-stream")
        .setMetadata(metadata);
  }

  /** An object that exists is this one, written by another attempt, or the run is not alone. */
  void requireSame(String name, long bytes, int crc32c) {
    Optional<Found> there = find(name);
    if (there.isEmpty() || there.get().bytes() != bytes || crc32c(there.get()) != crc32c) {
      throw new OutputException(
          uri(name),
          "expected %d bytes with CRC-32C %08x, found %s. Something else writes to the output, or bytes were changed on the way; run again."
              .formatted(
                  bytes,
                  crc32c,
                  there
                      .map(f -> "%d bytes with CRC-32C %08x".formatted(f.bytes(), crc32c(f)))
                      .orElse("nothing")));
    }
  }

  @Override
  public Upload create(String name, Map<String, String> metadata) {
    return new GcsUpload(this, name, metadata);
  }

  @Override
  public void put(String name, byte[] content) {
    try {
      storage().create(info(name, Map.of()).build(), content);
    } catch (StorageException e) {
      throw failure(name, e);
    }
  }

  @Override
  public boolean putIfAbsent(String name, byte[] content) {
    return putIf(name, content, Storage.BlobTargetOption.doesNotExist());
  }

  @Override
  public boolean replace(Found old, byte[] content) {
    return putIf(old.name(), content, Storage.BlobTargetOption.generationMatch(generation(old)));
  }

  private boolean putIf(String name, byte[] content, Storage.BlobTargetOption condition) {
    try {
      storage().create(info(name, Map.of()).build(), content, condition);
      return true;
    } catch (StorageException e) {
      if (e.getCode() != 412) {
        throw failure(name, e);
      }
      return false;
    }
  }

  @Override
  public byte[] read(Found object) {
    try {
      return storage().readAllBytes(BlobId.of(bucket, object.name(), generation(object)));
    } catch (StorageException e) {
      throw failure(object.name(), e);
    }
  }

  @Override
  public void concatenate(
      String name, List<Found> components, Map<String, String> metadata, String scratch)
      throws IOException {
    List<Found> level = components;
    for (int depth = 0; level.size() > MOST_COMPONENTS; depth++) {
      Found[] joined = new Found[(level.size() + MOST_COMPONENTS - 1) / MOST_COMPONENTS];
      List<Found> below = level;
      int height = depth;
      List<Integer> indices = new ArrayList<>();
      for (int k = 0; k < joined.length; k++) {
        indices.add(k);
      }
      InParallel.forEach(
          indices,
          k -> {
            List<Found> some =
                below.subList(
                    k * MOST_COMPONENTS, Math.min((k + 1) * MOST_COMPONENTS, below.size()));
            joined[k] =
                some.size() == 1
                    ? some.get(0)
                    : compose(
                        "%s%d-%06d.joined".formatted(scratch, height, k),
                        some,
                        Map.of(RUN, metadata.getOrDefault(RUN, "")));
          });
      level = List.of(joined);
    }
    compose(name, level, metadata);
  }

  private Found compose(String name, List<Found> components, Map<String, String> metadata) {
    Storage.ComposeRequest.Builder request =
        Storage.ComposeRequest.newBuilder()
            .setTarget(info(name, metadata).build())
            .setTargetOptions(Storage.BlobTargetOption.doesNotExist());
    long bytes = 0;
    int crc = 0;
    for (Found component : components) {
      request.addSource(component.name(), generation(component));
      crc = Crc32Combine.combineCastagnoli(crc, crc32c(component), component.bytes());
      bytes += component.bytes();
    }
    Found composed;
    try {
      composed = found(storage().compose(request.build()));
    } catch (StorageException e) {
      // Made already, or a component is another one by now, or gone.
      if (e.getCode() != 412 && e.getCode() != 404) {
        throw failure(name, e);
      }
      requireSame(name, bytes, crc);
      return find(name).orElseThrow(() -> failure(name, e));
    }
    if (composed.bytes() != bytes || crc32c(composed) != crc) {
      delete(List.of(composed));
      requireSame(name, bytes, crc);
    }
    return composed;
  }

  @Override
  public void copy(Found from, String to) {
    try {
      Blob there = storage().get(BlobId.of(bucket, to));
      Blob copied =
          storage()
              .copy(
                  Storage.CopyRequest.newBuilder()
                      .setSource(BlobId.of(bucket, from.name(), generation(from)))
                      .setTarget(
                          BlobId.of(bucket, to),
                          there == null
                              ? Storage.BlobTargetOption.doesNotExist()
                              : Storage.BlobTargetOption.generationMatch(there.getGeneration()))
                      .build())
              .getResult();
      if (copied.getSize() != from.bytes() || crc32c(found(copied)) != crc32c(from)) {
        requireSame(to, from.bytes(), crc32c(from));
      }
    } catch (StorageException e) {
      if (e.getCode() != 412 && e.getCode() != 404) {
        throw failure(to, e);
      }
      requireSame(to, from.bytes(), crc32c(from));
    }
  }

  @Override
  public void delete(List<Found> objects) {
    try {
      InParallel.forEach(objects, this::delete);
    } catch (IOException e) {
      throw new OutputException(
          uri(objects.get(0).name()), "cannot be removed: " + IoReason.of(e), e);
    }
  }

  private void delete(Found object) {
    try {
      // Naming the generation removes it for good, also where a bucket keeps old versions: wanted
      // for parts, not for a checkpoint that is replaced.
      boolean unpublished = object.name().contains(".unpublished/");
      storage()
          .delete(
              unpublished
                  ? BlobId.of(bucket, object.name(), generation(object))
                  : BlobId.of(bucket, object.name()),
              Storage.BlobSourceOption.generationMatch(generation(object)));
    } catch (StorageException e) {
      // Gone, or another one by now: either way this version is not there any more.
      if (e.getCode() != 404 && e.getCode() != 412) {
        throw failure(object.name(), e);
      }
    }
  }
}

package io.github.reshard.pipeline.storage;

import java.io.IOException;
import java.io.Serializable;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * A bucket as {@link ObjectTargetStore} writes to it. Objects appear whole or not at all. Every
 * call may be repeated, also after an answer got lost, and is repeated inside when the store asks
 * for patience; what remains is an {@link io.github.reshard.checkpoint.OutputException}.
 */
interface ObjectStore extends Serializable {
  /** The key under which an object says which run made it. */
  String RUN = "reshard-run";

  /** Google's key for POSIX permissions, as {@code gcloud storage cp --preserve-posix} uses it. */
  String POSIX_MODE = "goog-reserved-posix-mode";

  /**
   * An object.
   *
   * @param name inside the bucket
   * @param bytes its length
   * @param version what the store calls this content of it
   * @param writtenMillis when this content of it was written, by the store's clock
   * @param metadata what the writer said of it; empty where the store keeps no such thing
   */
  record Found(
      String name, long bytes, String version, long writtenMillis, Map<String, String> metadata)
      implements Serializable {
    public Found {
      metadata = Map.copyOf(metadata);
    }
  }

  /** An object that is being written. */
  interface Upload {
    void write(ByteBuffer source) throws IOException;

    /** Makes the object appear, checked against what was written. */
    void complete() throws IOException;

    /** Gives up; no object appears. */
    void abandon();
  }

  /** Every object whose name begins with {@code prefix}, sorted by name. */
  List<Found> list(String prefix) throws IOException;

  Optional<Found> find(String name) throws IOException;

  /**
   * Begins an object that only this run writes, with the same content whenever it does: one that is
   * there already must be equal.
   */
  Upload create(String name, Map<String, String> metadata) throws IOException;

  /** Writes a small object, in place of what is there. */
  void put(String name, byte[] content) throws IOException;

  /** Writes a small object unless there is one; whether it did. */
  boolean putIfAbsent(String name, byte[] content) throws IOException;

  /** Writes a small object in place of exactly this one; false if it is another one by now. */
  boolean replace(Found old, byte[] content) throws IOException;

  byte[] read(Found object) throws IOException;

  /**
   * Makes one object of many, in this order.
   *
   * @param scratch prefix of names that may be used on the way
   */
  void concatenate(
      String name, List<Found> components, Map<String, String> metadata, String scratch)
      throws IOException;

  /** Copies inside the store, in place of what is there, metadata included. */
  void copy(Found from, String to) throws IOException;

  /** Removes objects of exactly these versions; those that are gone are none. */
  void delete(List<Found> objects) throws IOException;

  /** The name as a user writes it. */
  String uri(String name);
}

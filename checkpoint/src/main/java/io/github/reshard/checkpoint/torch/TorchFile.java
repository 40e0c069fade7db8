package io.github.reshard.checkpoint.torch;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.Pickle;
import io.github.reshard.checkpoint.pickle.PickleReader;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.IOException;
import java.io.Serializable;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.UnaryOperator;

/**
 * What a {@code torch.save} file holds and where, without the payloads of its storages. Independent
 * of the file once read.
 *
 * <p>A file whose directory is, byte for byte, the one that PyTorch would have written is read in
 * three ranges whatever its size (end, directory if it is large, everything before the first
 * storage): the planned layout gives the payload offsets. Of any other file the local headers are
 * read too.
 */
public final class TorchFile {
  /**
   * An entry of the container.
   *
   * @param name without the archive's prefix, such as {@code data/0}
   * @param headerOffset of the local header, in bytes from the start of the file
   * @param payloadOffset of the content
   * @param bytes the length of the content
   * @param crc32 of the content as the directory records it
   * @param flags the general-purpose flags
   */
  public record Entry(
      String name, long headerOffset, long payloadOffset, long bytes, int crc32, int flags)
      implements Serializable {
    Entry at(long payload) {
      return new Entry(name, headerOffset, payload, bytes, crc32, flags);
    }
  }

  static final int MOST_IN_MEMORY = Integer.MAX_VALUE - 16;

  private final String path;
  private final String archiveName;
  private final byte[] pickle;
  private final byte[] serializationId;
  private final List<Entry> entries;
  private final ContainerStyle style;
  private final boolean reproducible;
  private final boolean hasCrcs;

  /** Made when it is first asked for: few ask a file for many. */
  private volatile Map<String, Entry> byName;

  TorchFile(
      String path,
      String archiveName,
      byte[] pickle,
      byte[] serializationId,
      List<Entry> entries,
      ContainerStyle style,
      boolean reproducible,
      boolean hasCrcs) {
    this.path = path;
    this.archiveName = archiveName;
    this.pickle = pickle;
    this.serializationId = serializationId;
    this.entries = List.copyOf(entries);
    this.style = style;
    this.reproducible = reproducible;
    this.hasCrcs = hasCrcs;
  }

  /**
   * Reads what there is to know about {@code file} but for its storages' payloads.
   *
   * @throws RefusedException if it is no sound {@code torch.save} container
   * @throws IOException if reading fails
   */
  public static TorchFile read(RangedFile file) throws IOException {
    return TorchFileReading.read(file);
  }

  /**
   * The same file in less memory, for when there are thousands: without the entries of 0 bytes, of
   * which a ZeRO-3 model file has one for each parameter.
   *
   * @param share gives the one copy of equal pickles
   */
  public TorchFile compact(UnaryOperator<byte[]> share) {
    return new TorchFile(
        path,
        archiveName,
        share.apply(pickle),
        serializationId,
        entries.stream().filter(entry -> entry.bytes() > 0).toList(),
        style,
        reproducible,
        hasCrcs);
  }

  /** Whether both say the same, whatever their storages hold. */
  public boolean hasPickleOf(TorchFile other) {
    return Arrays.equals(pickle, other.pickle);
  }

  /** The path, as messages show it. */
  public String path() {
    return path;
  }

  /** The prefix of all entry names, without its slash. */
  public String archiveName() {
    return archiveName;
  }

  /** The bytes of {@code data.pkl}. */
  public byte[] pickle() {
    return pickle.clone();
  }

  /** The object graph of {@code data.pkl}, a new one at each call, so that it may be edited. */
  public Pickle parse() {
    return PickleReader.read(pickle, path + ": " + archiveName + "/data.pkl");
  }

  /** All entries in the order of the file. */
  public List<Entry> entries() {
    return entries;
  }

  /** The entry of the storage that the pickle calls {@code key}. */
  public Optional<Entry> storage(String key) {
    Map<String, Entry> known = byName;
    if (known == null) {
      known = new HashMap<>(2 * entries.size());
      for (Entry entry : entries) {
        known.put(entry.name(), entry);
      }
      byName = known;
    }
    return Optional.ofNullable(known.get("data/" + key));
  }

  /** Whether CRCs are recorded: files written with {@code compute_crc32} off have 0 everywhere. */
  public boolean hasCrcs() {
    return hasCrcs;
  }

  /** The 40 digits of {@code .data/serialization_id}; empty if there is none. */
  public Optional<byte[]> serializationId() {
    return Optional.ofNullable(serializationId).map(byte[]::clone);
  }

  /**
   * How to write a file like this one; {@link ContainerStyle#PLAIN} unless {@link #reproducible()}.
   */
  public ContainerStyle style() {
    return style;
  }

  /** Whether {@link TorchFileLayout} gives this file's directory byte for byte. */
  public boolean reproducible() {
    return reproducible;
  }
}

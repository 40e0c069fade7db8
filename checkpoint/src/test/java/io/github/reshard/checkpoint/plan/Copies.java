package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.copy.SliceCopier;
import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.RangedFile;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.zip.CRC32;

/** Slices that were copied in memory, part by part, and the checksums that came of it. */
final class Copies {
  /** By file and entry. */
  final Map<Address, List<SliceCrc>> read = new HashMap<>();

  /** By file and entry. */
  final Map<Address, List<SliceCrc>> written = new HashMap<>();

  /** By parameter and state. */
  final Map<String, List<SliceCrc>> tensors = new HashMap<>();

  /** A file in memory. */
  @SuppressWarnings("ArrayRecordComponent") // never compared
  record File(String path, byte[] bytes) implements RangedFile, PositionalFile {
    @Override
    public long size() {
      return bytes.length;
    }

    @Override
    public void readFully(long position, ByteBuffer target) {
      target.put(bytes, (int) position, target.remaining());
    }

    @Override
    public void write(long position, ByteBuffer source) {
      source.get(bytes, (int) position, source.remaining());
    }

    @Override
    public void close() {}
  }

  private static void add(Map<Address, List<SliceCrc>> to, Address at, SliceCrc crc) {
    to.computeIfAbsent(new Address(at.file(), at.entry(), 0), k -> new ArrayList<>()).add(crc);
  }

  static int crc(byte[] bytes, long from, long length) {
    CRC32 crc = new CRC32();
    crc.update(bytes, (int) from, (int) length);
    return (int) crc.getValue();
  }

  /** Copies {@code slices} part by part, those of a part in any order. */
  static Copies copy(
      List<SliceCopy> slices, byte[][] source, byte[][] target, long partBytes, Random random) {
    Map<PartId, List<SliceCopy>> parts = new LinkedHashMap<>();
    for (SliceCopy slice : slices) {
      Cut.intoParts(
          slice,
          partBytes,
          (id, piece) -> parts.computeIfAbsent(id, k -> new ArrayList<>()).add(piece));
    }
    Copies copies = new Copies();
    SliceCopier copier = new SliceCopier();
    parts.forEach(
        (id, pieces) -> {
          Collections.shuffle(pieces, random);
          try {
            copier.copy(
                pieces,
                file -> new File("file" + file, source[file]),
                id.source() ? null : new File("target", target[id.file()]),
                copies::add);
          } catch (IOException e) {
            throw new UncheckedIOException(e);
          }
        });
    return copies;
  }

  private void add(SliceCopy slice, SliceCopier.Checksums sums) {
    if (sums.source() != null) {
      add(read, slice.source(), sums.source());
    }
    if (sums.target() != null) {
      add(written, slice.target(), sums.target());
    }
    if (sums.tensor() != null) {
      String tensor = slice.tensor().parameter().name() + " " + slice.tensor().state();
      tensors.computeIfAbsent(tensor, k -> new ArrayList<>()).add(sums.tensor());
    }
  }
}

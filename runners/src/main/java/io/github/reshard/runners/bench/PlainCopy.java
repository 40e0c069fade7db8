package io.github.reshard.runners.bench;

import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Stream;
import java.util.zip.CRC32;

/**
 * The least that a copy with proven bytes costs in Java, for {@code scripts/bench}: every byte read
 * once, through CRC-32, and written once, by two threads with 1 MiB of buffer each. Nothing is
 * planned, compared or made durable. Usage: {@code PlainCopy SOURCE TARGET}.
 */
public final class PlainCopy {
  private static final int THREADS = 2;
  private static final int BUFFER_BYTES = 1 << 20;
  private static final long PART_BYTES = 64 << 20;

  private PlainCopy() {}

  private record Part(Path source, Path target, long from, long to) {}

  /** Copies the tree SOURCE to TARGET, which must not exist. */
  public static void main(String[] args)
      throws IOException, InterruptedException, ExecutionException {
    ExecutorService threads = Executors.newFixedThreadPool(THREADS);
    List<Future<Long>> crcs = new ArrayList<>();
    for (Part part : parts(Path.of(args[0]), Path.of(args[1]))) {
      crcs.add(threads.submit(() -> copy(part)));
    }
    long sum = 0;
    for (Future<Long> crc : crcs) {
      sum += crc.get();
    }
    threads.shutdown();
    System.out.println(Long.toHexString(sum));
  }

  private static List<Part> parts(Path from, Path to) throws IOException {
    List<Part> parts = new ArrayList<>();
    try (Stream<Path> tree = Files.walk(from)) {
      for (Path source : tree.sorted().toList()) {
        Path target = to.resolve(from.relativize(source).toString());
        if (Files.isDirectory(source)) {
          Files.createDirectory(target);
          continue;
        }
        long size = Files.size(source);
        for (long at = 0; at < size; at += PART_BYTES) {
          parts.add(new Part(source, target, at, Math.min(size, at + PART_BYTES)));
        }
      }
    }
    return parts;
  }

  private static long copy(Part part) throws IOException {
    ByteBuffer buffer = ByteBuffer.allocateDirect(BUFFER_BYTES);
    CRC32 crc = new CRC32();
    try (FileChannel in = FileChannel.open(part.source(), StandardOpenOption.READ);
        FileChannel out =
            FileChannel.open(part.target(), StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
      for (long at = part.from(); at < part.to(); ) {
        buffer.clear().limit((int) Math.min(BUFFER_BYTES, part.to() - at));
        if (in.read(buffer, at) < 0) {
          throw new EOFException(part.source() + " ends at byte " + at);
        }
        crc.update(buffer.flip());
        for (buffer.rewind(); buffer.hasRemaining(); ) {
          at += out.write(buffer, at);
        }
      }
    }
    return crc.getValue();
  }
}

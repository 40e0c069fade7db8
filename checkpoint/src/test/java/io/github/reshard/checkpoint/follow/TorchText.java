package io.github.reshard.checkpoint.follow;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;

/** A file as {@code torch.save} makes it of a text. */
final class TorchText {
  private TorchText() {}

  static byte[] of(String text) throws IOException {
    byte[] characters = text.getBytes(StandardCharsets.UTF_8);
    ByteArrayOutputStream pickle = new ByteArrayOutputStream();
    // PROTO 2, BINUNICODE, STOP.
    pickle.writeBytes(new byte[] {(byte) 0x80, 2, 'X', (byte) characters.length, 0, 0, 0});
    pickle.writeBytes(characters);
    pickle.write('.');
    ByteArrayOutputStream file = new ByteArrayOutputStream();
    try (ZipOutputStream zip = new ZipOutputStream(file)) {
      add(zip, "archive/data.pkl", pickle.toByteArray());
      add(zip, "archive/byteorder", "little".getBytes(StandardCharsets.UTF_8));
      add(zip, "archive/version", "3\n".getBytes(StandardCharsets.UTF_8));
    }
    return file.toByteArray();
  }

  private static void add(ZipOutputStream zip, String name, byte[] content) throws IOException {
    ZipEntry entry = new ZipEntry(name);
    entry.setMethod(ZipEntry.STORED);
    entry.setSize(content.length);
    CRC32 crc = new CRC32();
    crc.update(content);
    entry.setCrc(crc.getValue());
    zip.putNextEntry(entry);
    zip.write(content);
    zip.closeEntry();
  }
}

package io.github.reshard.checkpoint.pickle;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;

/**
 * Text as CPython pickles it: UTF-8 with the {@code surrogatepass} error handler, under which a
 * lone surrogate is three bytes. A Java string is ambiguous only where a high surrogate is followed
 * by a low one: that is one code point here, and {@link #decode} refuses the (never seen) Python
 * string that holds the two apart.
 */
final class Utf8 {
  private Utf8() {}

  /**
   * @throws IllegalArgumentException if the bytes are not such text; the message says where
   */
  static String decode(byte[] in, int from, int to) {
    StringBuilder text = new StringBuilder(to - from);
    int i = from;
    while (i < to) {
      int first = in[i] & 0xff;
      if (first < 0x80) {
        text.append((char) first);
        i++;
        continue;
      }
      int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
      if (first < 0xc2 || first > 0xf4 || i + more >= to) {
        throw new IllegalArgumentException("text that is not UTF-8 at its byte " + (i - from));
      }
      int code = first & (0x3f >> more);
      for (int k = 1; k <= more; k++) {
        int next = in[i + k] & 0xff;
        if ((next & 0xc0) != 0x80) {
          throw new IllegalArgumentException("text that is not UTF-8 at its byte " + (i - from));
        }
        code = (code << 6) | (next & 0x3f);
      }
      if ((more == 2 && code < 0x800) || (more == 3 && (code < 0x10000 || code > 0x10ffff))) {
        throw new IllegalArgumentException("text that is not UTF-8 at its byte " + (i - from));
      }
      if (more == 2
          && Character.isLowSurrogate((char) code)
          && !text.isEmpty()
          && Character.isHighSurrogate(text.charAt(text.length() - 1))) {
        throw new IllegalArgumentException(
            "text with a surrogate pair written as two code points at its byte " + (i - from));
      }
      text.appendCodePoint(code);
      i += more + 1;
    }
    return text.toString();
  }

  static byte[] encode(String text) {
    boolean lone = false;
    for (int i = 0; i < text.length() && !lone; i++) {
      if (Character.isSurrogate(text.charAt(i))) {
        if (text.codePointAt(i) > 0xffff) {
          i++;
        } else {
          lone = true;
        }
      }
    }
    if (!lone) {
      return text.getBytes(StandardCharsets.UTF_8);
    }
    ByteArrayOutputStream out = new ByteArrayOutputStream(text.length() + 8);
    for (int i = 0; i < text.length(); ) {
      int code = text.codePointAt(i);
      i += Character.charCount(code);
      if (code >= 0xd800 && code <= 0xdfff) {
        out.write(0xe0 | (code >> 12));
        out.write(0x80 | ((code >> 6) & 0x3f));
        out.write(0x80 | (code & 0x3f));
      } else {
        out.writeBytes(Character.toString(code).getBytes(StandardCharsets.UTF_8));
      }
    }
    return out.toByteArray();
  }
}

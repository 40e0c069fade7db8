package io.github.reshard.checkpoint.pickle;

import io.github.reshard.checkpoint.RefusedException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** The bytes of a pickle while it is read: opcodes and their arguments, with where one stands. */
final class PickleInput {
  private final byte[] in;
  private final String where;
  private int position;
  private int opcodeAt;
  private Opcode opcode;

  PickleInput(byte[] in, String where) {
    this.in = in;
    this.where = where;
  }

  /** The next opcode; what is refused from now on is refused at its place. */
  Opcode next() {
    opcodeAt = position;
    opcode = null;
    if (position == in.length) {
      throw refused("the pickle ends without STOP, it is cut off; copy the file again");
    }
    int code = in[position++] & 0xff;
    opcode = Opcode.of(code);
    if (opcode == null) {
      throw refused("unknown opcode 0x%02x".formatted(code));
    }
    return opcode;
  }

  /** How many bytes follow. */
  int remaining() {
    return in.length - position;
  }

  /** The argument of {@code INT}, which protocols 0 and 1 write booleans with, too. */
  PyObject intLine() {
    String line = line();
    return switch (line) {
      case "00" -> PyBool.FALSE;
      case "01" -> PyBool.TRUE;
      default -> PyInt.of(number(line));
    };
  }

  PyInt longLine() {
    String line = line();
    String digits = line.endsWith("L") ? line.substring(0, line.length() - 1) : line;
    // Decimal text costs quadratic time to convert; CPython's own limit is 4300 digits.
    if (digits.length() > 4300 || !digits.matches("-?[0-9]+")) {
      throw refused("expected at most 4300 digits, found '%s'".formatted(shortened(line)));
    }
    return PyInt.of(new BigInteger(digits));
  }

  PyFloat floatLine() {
    String line = line();
    try {
      return new PyFloat(
          switch (line) {
            case "inf" -> Double.POSITIVE_INFINITY;
            case "-inf" -> Double.NEGATIVE_INFINITY;
            case "nan" -> Double.NaN;
            default -> Double.parseDouble(line);
          });
    } catch (NumberFormatException e) {
      throw refused("expected a number, found '%s'".formatted(shortened(line)));
    }
  }

  /** The number that an opcode of protocol 0 has as a line of text. */
  long number() {
    return number(line());
  }

  private long number(String line) {
    try {
      return Long.parseLong(line);
    } catch (NumberFormatException e) {
      throw refused("expected a number, found '%s'".formatted(shortened(line)));
    }
  }

  private static String shortened(String text) {
    return text.length() <= 60 ? text : text.substring(0, 60) + "...";
  }

  PyInt longOf(long length) {
    int from = take(length);
    byte[] bigEndian = new byte[position - from];
    for (int i = 0; i < bigEndian.length; i++) {
      bigEndian[i] = in[position - 1 - i];
    }
    return PyInt.of(bigEndian.length == 0 ? BigInteger.ZERO : new BigInteger(bigEndian));
  }

  PyStr text(long length) {
    int from = take(length);
    try {
      return new PyStr(Utf8.decode(in, from, position));
    } catch (IllegalArgumentException e) {
      throw refused("expected UTF-8, found " + e.getMessage());
    }
  }

  PyBytes bytes(long length, boolean mutable) {
    int from = take(length);
    return new PyBytes(Arrays.copyOfRange(in, from, position), mutable);
  }

  int byteAt() {
    return (int) littleEndian(1);
  }

  int int32() {
    return (int) littleEndian(4);
  }

  long littleEndian(int bytes) {
    int from = take(bytes);
    long value = 0;
    for (int i = bytes - 1; i >= 0; i--) {
      value = (value << 8) | (in[from + i] & 0xff);
    }
    return value;
  }

  /** Moves on by {@code length} bytes, which are there; returns where they start. */
  private int take(long length) {
    if (length < 0 || length > in.length - position) {
      throw refused(
          "expected %s more bytes, found %d: the pickle is cut off or damaged"
              .formatted(Long.toUnsignedString(length), in.length - position));
    }
    int from = position;
    position += (int) length;
    return from;
  }

  String line() {
    int from = position;
    while (position < in.length && in[position] != '\n') {
      position++;
    }
    if (position == in.length) {
      throw refused("expected a line, found the end of the pickle");
    }
    return new String(in, from, position++ - from, StandardCharsets.UTF_8);
  }

  RefusedException refused(String problem) {
    return new RefusedException(
        where,
        "pickle byte %d%s: %s"
            .formatted(opcodeAt, opcode == null ? "" : ", opcode " + opcode, problem));
  }
}

package io.github.reshard.runners;

import java.util.Locale;

/** Amounts as people read them. */
final class Quantity {
  private static final String[] UNITS = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};

  private Quantity() {}

  /** {@code 1536} is {@code 1.5 KiB}. */
  static String bytes(long bytes) {
    return bytes((double) bytes);
  }

  /** As {@link #bytes(long)}, for what is not whole, such as bytes a second. */
  static String bytes(double bytes) {
    int unit = 0;
    double value = bytes;
    while (value >= 1024 && unit < UNITS.length - 1) {
      value /= 1024;
      unit++;
    }
    return unit == 0
        ? String.format(Locale.ROOT, "%.0f B", value)
        : String.format(Locale.ROOT, "%.1f %s", value, UNITS[unit]);
  }

  /** {@code 75} is {@code 1 min 15 s}; fractions are shown below ten seconds only. */
  static String seconds(double seconds) {
    if (seconds < 9.95) {
      return String.format(Locale.ROOT, "%.1f s", seconds);
    }
    long whole = Math.round(seconds);
    if (whole < 60) {
      return whole + " s";
    }
    if (whole < 3600) {
      return whole / 60 + " min " + whole % 60 + " s";
    }
    return whole / 3600 + " h " + whole % 3600 / 60 + " min";
  }

  /** {@code 1234567} is {@code 1,234,567}. */
  static String count(long count) {
    return String.format(Locale.ROOT, "%,d", count);
  }

  /** {@code count(1, "file")} is {@code 1 file}, of two {@code 2 files}. */
  static String count(long count, String noun) {
    return count(count) + " " + noun + (count == 1 ? "" : "s");
  }
}

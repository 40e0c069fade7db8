package io.github.reshard.runners;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.Test;

class ProgressTest {
  private static final long MIB = 1L << 20;
  private static final long SECOND = 1_000_000_000L;

  private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
  private final AtomicLong clock = new AtomicLong();

  private Progress progress(Progress.Style style) {
    return new Progress(new PrintStream(bytes, true, StandardCharsets.UTF_8), style, clock::get);
  }

  private String printed() {
    return bytes.toString(StandardCharsets.UTF_8);
  }

  @Test
  void tellsBytesRateAndTheTimeThatIsLeft() {
    assertThat(Progress.line("writing", 30 * MIB, 120 * MIB, 2))
        .isEqualTo("writing: 30.0 MiB of 120.0 MiB (25 %), 15.0 MiB/s, 6.0 s left");
  }

  @Test
  void leavesOutWhatIsNotKnown() {
    assertThat(Progress.line("reading headers", 0, 0, 3))
        .isEqualTo("reading headers, 3.0 s so far");
    assertThat(Progress.line("writing", 0, 120 * MIB, 3))
        .isEqualTo("writing: 120.0 MiB, 3.0 s so far");
    assertThat(Progress.line("writing", 10 * MIB, 0, 2)).isEqualTo("writing: 10.0 MiB, 5.0 MiB/s");
  }

  @Test
  void neverPromisesLessThanNothingWhenABundleIsRetried() {
    assertThat(Progress.line("writing", 130 * MIB, 120 * MIB, 2))
        .isEqualTo("writing: 130.0 MiB of 120.0 MiB (100 %), 65.0 MiB/s");
  }

  @Test
  void printsPlainLinesWhereThereIsNoTerminal() {
    try (Progress progress = progress(Progress.Style.PLAIN)) {
      progress.phase("reading headers", 0);
      clock.addAndGet(5 * SECOND);
      progress.tick();
    }

    assertThat(printed().lines()).containsExactly("reading headers, 5.0 s so far");
  }

  @Test
  void tellsProgramsOneObjectALineThatBeginsWithThePhase() {
    try (Progress progress = progress(Progress.Style.JSON)) {
      progress.phase("moving bytes", 5 * MIB);
      clock.addAndGet(SECOND);
      progress.tick();
    }

    assertThat(printed().lines())
        .containsExactly(
            "{\"phase\":\"moving bytes\",\"movedBytes\":0,\"totalBytes\":5242880,"
                + "\"text\":\"moving bytes\"}",
            "{\"phase\":\"moving bytes\",\"movedBytes\":0,\"totalBytes\":5242880,"
                + "\"text\":\"moving bytes: 5.0 MiB, 1.0 s so far\"}");
  }

  @Test
  void rewritesOneLineOfATerminalAndLeavesItEmpty() {
    try (Progress progress = progress(Progress.Style.TERMINAL)) {
      progress.phase("reading headers", 0);
      progress.phase("writing", 0);
    }

    assertThat(printed())
        .isEqualTo(
            "\rreading headers"
                + "\rwriting        "
                + "\r"
                + " ".repeat("writing".length())
                + "\r");
  }

  @Test
  void saysNothingBeforeTheFirstPhase() {
    try (Progress progress = progress(Progress.Style.PLAIN)) {
      progress.tick();
    }

    assertThat(printed()).isEmpty();
  }
}

package io.github.reshard.runners;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import java.io.IOException;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.util.UserCodeException;
import org.apache.flink.util.SerializedThrowable;
import org.junit.jupiter.api.Test;

class FailureTest {
  private final RefusedException refused = new RefusedException("a.pt", "expected 3, found 4");

  @Test
  void wrongUsageExitsWith2() {
    assertThat(Failure.of(new UsageException("no such option")))
        .isEqualTo(new Failure(2, "no such option"));
  }

  @Test
  void refusedInputExitsWith3() {
    assertThat(Failure.of(refused)).isEqualTo(new Failure(3, "a.pt: expected 3, found 4"));
  }

  @Test
  void unwritableOutputExitsWith4() {
    assertThat(Failure.of(new OutputException("out/latest", "no space left")))
        .isEqualTo(new Failure(4, "out/latest: no space left"));
  }

  @Test
  void aRefusalIsFoundInsideWhatTheDirectRunnerThrows() {
    Throwable thrown = new Pipeline.PipelineExecutionException(UserCodeException.wrap(refused));

    assertThat(Failure.of(thrown).exitCode()).isEqualTo(3);
  }

  @Test
  void aRefusalIsFoundInsideWhatFlinkSerialized() {
    Throwable thrown =
        new RuntimeException(
            "job failed", new SerializedThrowable(UserCodeException.wrap(refused)));

    assertThat(Failure.of(thrown)).isEqualTo(new Failure(3, "a.pt: expected 3, found 4"));
  }

  @Test
  void aRefusalIsFoundAmongSuppressedExceptions() {
    IOException thrown = new IOException("close failed");
    thrown.addSuppressed(new IllegalStateException(refused));

    assertThat(Failure.of(thrown).exitCode()).isEqualTo(3);
  }

  @Test
  void aRefusalWinsOverWhatItCausedInTheOutput() {
    OutputException thrown = new OutputException("out", "abandoned", refused);

    assertThat(Failure.of(thrown).exitCode()).isEqualTo(3);
  }

  @Test
  void anythingElseExitsWith1AndNamesTheInnermostCause() {
    assertThat(Failure.of(new RuntimeException("outer", new IllegalStateException("inner"))))
        .isEqualTo(
            new Failure(
                1, "failed unexpectedly: IllegalStateException: inner (--debug shows where)"));
  }

  @Test
  void runningOutOfMemorySaysWhatToDo() {
    Failure failure = Failure.of(new RuntimeException(new OutOfMemoryError("Java heap space")));

    assertThat(failure.exitCode()).isEqualTo(1);
    assertThat(failure.message()).contains("Java heap space", "RESHARD_JAVA_OPTS=-Xmx");
  }

  @Test
  void causesThatGoInCirclesEnd() {
    Exception first = new Exception("first");
    first.initCause(new Exception("second", first));

    assertThat(Failure.of(first).exitCode()).isEqualTo(1);
  }
}

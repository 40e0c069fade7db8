package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.follow.Look;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.testing.Scratch;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A run saves while time passes; both do so only when the test says. */
class SavingTest implements Saving.Clock {
  private static final String LATE = Scratch.shard(1);

  @TempDir Path scratch;

  private final SortedMap<Long, Write> writes = new TreeMap<>();
  private Path input;
  private Path late;
  private byte[] content;
  private long now;

  /** What the run does at some moment. */
  private interface Write {
    void run() throws IOException;
  }

  @Override
  public long millis() {
    return now;
  }

  @Override
  public void sleep(long millis) {
    now += millis;
    while (!writes.isEmpty() && writes.firstKey() <= now) {
      try {
        writes.remove(writes.firstKey()).run();
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  }

  @BeforeEach
  void copy() throws IOException {
    input = scratch.resolve("ckpt");
    Scratch.copyOf(Scratch.source(), input);
    late = input.resolve(Files.readString(input.resolve("latest")).strip()).resolve(LATE);
    content = Files.readAllBytes(late);
  }

  private Saving saving(Path at) throws IOException {
    return new Saving(new LocalSourceStore(), at.toString(), Optional.empty(), this);
  }

  @Test
  void whatIsWholeTakesTwoLooks() throws IOException {
    saving(input).await(60);
    assertThat(now).isLessThan(1000);
  }

  /** DeepSpeed names the tag in `latest` three seconds before this rank has written its file. */
  @Test
  void aRankThatIsLateIsWaitedFor() throws IOException {
    Files.delete(late);
    writes.put(1000L, () -> Files.write(late, Arrays.copyOf(content, content.length / 2)));
    writes.put(3000L, () -> Files.write(late, content));
    saving(input).await(60);
    assertThat(now).isBetween(3000L, 4000L);
    assertThat(Files.readAllBytes(late)).isEqualTo(content);
  }

  @Test
  void theDirectoryOfTheTagMeansTheSame() throws IOException {
    Files.delete(late);
    writes.put(3000L, () -> Files.write(late, content));
    saving(late.getParent()).await(60);
    assertThat(now).isBetween(3000L, 4000L);
  }

  @Test
  void afterTheTimeWhatIsMissingIsNamed() throws IOException {
    Files.delete(late);
    assertThatThrownBy(() -> saving(input).await(5))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("is not whole after 5 s")
        .hasMessageContaining(LATE + " is not there");
    assertThat(now).isBetween(5000L, 5500L);
  }

  @Test
  void nothingIsThereYet() throws IOException {
    assertThatThrownBy(() -> saving(scratch.resolve("none")).await(2))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("no tag is there yet");
  }

  @Test
  void aRefusalWhileTheRunSavesNamesWhatGrows() throws IOException {
    Files.write(late, Arrays.copyOf(content, 100));
    Saving saving = saving(input);
    Optional<Look> before = saving.look();
    RefusedException refused = new RefusedException(late.toString(), "the file is cut off");
    assertThat(saving.because(before, refused)).isSameAs(refused);
    Files.write(late, Arrays.copyOf(content, 200));
    assertThat(saving.because(before, refused))
        .hasMessageContaining("is being saved right now: " + LATE + " went from 100 to 200 bytes")
        .hasMessageContaining("--wait=60s")
        .hasCause(refused);
  }
}

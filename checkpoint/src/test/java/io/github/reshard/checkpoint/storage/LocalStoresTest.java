package io.github.reshard.checkpoint.storage;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import java.io.EOFException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import org.junit.jupiter.api.Test;

/** What a local store reads, keeps to itself until it is published, and removes. */
class LocalStoresTest extends LocalStoresCase {
  @Test
  void whoLostTheOutputLeavesTheFilesOfTheOther() throws IOException {
    LocalTargetStore slow = store(false);
    slow.begin();
    writeAll(slow);
    dies();
    LocalTargetStore other = store(false);
    other.begin();
    writeAll(other);

    slow.abandon();

    publish(other);
    assertPublished();
  }

  @Test
  void nothingIsRemovedFromUnderARun() throws IOException {
    LocalTargetStore store = store(false);
    store.begin();
    writeAll(store);

    assertThatThrownBy(() -> Leftovers.remove(output.toString()))
        .isInstanceOf(OutputHeldException.class)
        .hasMessageContaining("another run is writing to it");

    publish(store);
    assertPublished();
  }

  @Test
  void nothingIsThereBeforeItIsPublished() throws IOException {
    LocalTargetStore store = store(false);
    store.begin();
    writeAll(store);
    assertThat(output.resolve("step3")).doesNotExist();
    assertThat(output.resolve("latest")).doesNotExist();
    assertThat(output.resolve(BESIDE)).doesNotExist();

    publish(store);

    assertPublished();
  }

  @Test
  void publishingTwiceIsPublishingOnce() throws IOException {
    LocalTargetStore store = store(false);
    run(store);
    publish(store);

    assertPublished();
  }

  @Test
  void whatAnEarlierRunLeftUnpublishedIsNotPartOfTheNext() throws IOException {
    LocalTargetStore killed = store(false);
    killed.begin();
    write(killed, "step3/stale.pt", "of a killed run");
    dies();

    run(store(false));

    assertPublished();
    assertThat(output.resolve("step3/stale.pt")).doesNotExist();
  }

  @Test
  void aTagThatIsThereIsKept() throws IOException {
    run(store(false));

    assertThatThrownBy(() -> store(false).begin())
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("step3")
        .hasMessageContaining("--overwrite");
    assertPublished();
  }

  @Test
  void overwritingReplacesTheWholeTag() throws IOException {
    writeOldTag();
    run(store(true));

    assertPublished();
    assertThat(output.resolve("step3/old.pt")).doesNotExist();
  }

  @Test
  void otherTagsAreLeftAlone() throws IOException {
    Files.createDirectories(output.resolve("step2"));
    Files.writeString(output.resolve("step2/model.pt"), "older");
    Files.writeString(output.resolve("latest"), "step2");
    run(store(false));

    assertPublished();
    assertThat(output.resolve("step2/model.pt")).hasContent("older");
  }

  @Test
  void abandoningLeavesNoTrace() throws IOException {
    LocalTargetStore store = store(false);
    store.begin();
    writeAll(store);
    store.abandon();

    assertThat(output).isEmptyDirectory();
  }

  @Test
  void aWorkerThatGoesOnPutsNothingIntoAnAbandonedOutput() throws Exception {
    for (int i = 0; i < 50; i++) {
      LocalTargetStore store = store(false);
      store.begin();
      CountDownLatch writing = new CountDownLatch(1);
      CompletableFuture<Void> worker =
          CompletableFuture.runAsync(
              () -> {
                for (int file = 0; ; file++) {
                  try {
                    write(store, "step3/part" + file, "of a run that failed");
                  } catch (IOException e) {
                    throw new UncheckedIOException(e);
                  }
                  writing.countDown();
                }
              });
      writing.await();

      store.abandon();

      assertThatThrownBy(worker::join).hasCauseInstanceOf(OutputException.class);
      assertThat(output).isEmptyDirectory();
    }
  }

  @Test
  void aWorkerOfAnEarlierRunCannotWriteIntoThisOne() throws IOException {
    LocalTargetStore killed = store(false);
    killed.begin();
    dies();
    LocalTargetStore next = store(false);
    next.begin();
    writeAll(next);

    assertThatThrownBy(() -> write(killed, FILE, "of a killed run"))
        .isInstanceOf(OutputException.class);
    publish(next);

    assertPublished();
  }

  @Test
  void theOutputIsWholeAlthoughSomethingCannotBeRemoved() throws IOException {
    LocalTargetStore store = store(false);
    store.begin();
    writeAll(store);
    // What is removed is renamed first, to a name that is taken here.
    Path inTheWay =
        Files.createDirectories(
            store.staging().resolveSibling(store.staging().getFileName() + ".discarded"));
    Files.writeString(inTheWay.resolve("file"), "12345");

    assertThat(store.publish(PATHS, MANIFEST, "{}".getBytes(StandardCharsets.UTF_8))).isFalse();

    assertThat(output.resolve(FILE)).hasContent("new model");
    assertThat(output.resolve("latest")).hasContent("step3");
    assertThat(output.resolve(".reshard-step3.publishing")).doesNotExist();
    assertThat(Leftovers.remove(output.toString()))
        .containsExactly(
            new Leftovers.Removed(output.resolve(".reshard-step3.unpublished").toString(), 1, 5));
    assertPublished();
  }

  @Test
  void whatShardsLeftBesideTheirDirectoryIsRemoved() throws IOException {
    LocalShardsStore killed = new LocalShardsStore(output.toString(), Set.of(), "shard.*", false);
    killed.begin();
    write(killed, "shard.0", "of a killed run");
    dies(temp.resolve(".reshard-output.lock"));
    Files.writeString(temp.resolve(".reshard-other.unpublished"), "of another output");

    assertThat(Leftovers.remove(output.toString()))
        .extracting(Leftovers.Removed::where)
        .containsExactly(
            temp.resolve(".reshard-output.lock").toString(),
            temp.resolve(".reshard-output.unpublished").toString());
    assertThat(temp).isDirectoryContaining("glob:**/.reshard-other.unpublished");
    assertThatThrownBy(() -> Leftovers.remove(output.toString()))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("there is no such directory");
  }

  @Test
  void aFileOfAnotherLengthIsNotFinished() throws IOException {
    LocalTargetStore store = store(false);
    store.begin();
    try (PositionalFile file = store.open(FILE)) {
      file.write(0, bytes("short"));
    }

    assertThatThrownBy(() -> store.finish(FILE, 6, false))
        .isInstanceOf(OutputException.class)
        .hasMessageContaining("has 5 bytes where 6 were written");
  }

  @Test
  void aDirectoryThatIsAFileCannotBeWritten() throws IOException {
    Files.writeString(output, "in the way");

    assertThatThrownBy(() -> store(false).begin())
        .isInstanceOf(OutputException.class)
        .hasMessage(
            "%s: cannot be written: %s is there and no directory. Move it away, or name another"
                + " place.",
            output, output);
  }

  @Test
  void aSourceThatChangedIsRefused() throws IOException {
    Path file = temp.resolve("model.pt");
    Files.writeString(file, "12345");
    LocalSourceStore source = new LocalSourceStore();
    FileStat planned = source.list(temp.toString()).files().get(0);
    Files.setLastModifiedTime(file, FileTime.fromMillis(1000));

    assertThatThrownBy(() -> source.open(planned))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("model.pt: changed while it was being read");
    Files.writeString(file, "123456");
    assertThatThrownBy(() -> source.open(planned))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("planned with 5 bytes")
        .hasMessageContaining("found 6 bytes");
  }

  @Test
  void readingBeyondTheEndIsAnError() throws IOException {
    Files.writeString(temp.resolve("model.pt"), "12345");
    LocalSourceStore source = new LocalSourceStore();
    try (RangedFile file = source.open(source.list(temp.toString()).files().get(0))) {
      ByteBuffer two = ByteBuffer.allocate(2);
      file.readFully(3, two);
      assertThat(new String(two.array(), StandardCharsets.UTF_8)).isEqualTo("45");
      assertThatThrownBy(() -> file.readFully(4, ByteBuffer.allocate(2)))
          .isInstanceOf(EOFException.class)
          .hasMessageContaining("ends at byte 5");
    }
  }
}

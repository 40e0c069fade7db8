package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.storage.JobDirectory;
import io.github.reshard.checkpoint.storage.LocalJobDirectory;
import io.github.reshard.checkpoint.storage.LockHolder;
import io.github.reshard.checkpoint.storage.OutputHeldException;
import io.github.reshard.testing.Scratch;
import io.github.reshard.transforms.Reshard;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What a job that follows takes from its output and leaves there. */
class FollowerOutputTest extends SteppedFollower {
  @Test
  void aRestartFindsWhatStandsInTheOutput() throws IOException {
    saving.save("step1");
    steps();
    publish();
    steps();
    saving.save("step2");
    restart();
    assertThat(steps()).containsExactly("KNOWN step1");
    assertThat(tagInHand()).isEqualTo("step2");
  }

  @Test
  void whatWasMadeOfAnEarlierTagOfThisNameIsMadeAgain() throws IOException {
    saving.save("step1");
    steps();
    publish();
    steps();
    saving.save("step1");
    restart();
    assertThat(steps()).isEmpty();
    assertThat(tagInHand()).isEqualTo("step1");
  }

  @Test
  void whatAnotherProgramChangedInTheOutputIsNotTakenForItsOwn() throws IOException {
    saving.save("step1");
    steps();
    publish();
    steps();
    Files.write(output.resolve("step1").resolve(Scratch.MODEL), new byte[10]);
    restart();
    List<String> said = tenSteps();
    assertThat(said.get(said.size() - 1)).startsWith("FAILED").contains("already holds this tag");
    assertThat(state.over()).isTrue();
  }

  /** What a worker published that died before it could say so. */
  private void publishedByAWorkerThatDied() throws IOException {
    saving.save("step1");
    steps();
    Reshard begun = inHand().get(0);
    publish();
    Path manifest = output.resolve("step1/reshard-manifest.json");
    FileTime written = Files.getLastModifiedTime(manifest);
    Files.writeString(
        manifest,
        Files.readString(manifest)
            .replaceFirst("\"run\" : \"[^\"]*\"", "\"run\" : \"" + begun.config().run() + "\""));
    Files.setLastModifiedTime(manifest, written);
    for (String name : directory.names()) {
      if (name.startsWith("ended-")) {
        directory.delete(name);
      }
    }
  }

  @Test
  void whatAWorkerPublishedThatDiedBeforeItSaidSoIsPublished() throws IOException {
    publishedByAWorkerThatDied();
    assertThat(tenSteps()).contains("PUBLISHED step1");
  }

  /** A job that goes on from the moment before it had said so. */
  @Test
  void whatIsSaidToBePublishedAgainIsHeardOnce() throws IOException {
    FollowNews news = new FollowNews(directory);
    Following said = state;
    for (long published : new long[] {3_000, 4_000}) {
      news.say(
          new FollowEvent(
              FollowEvent.Kind.PUBLISHED,
              "step1",
              "",
              List.of(3),
              List.of("out"),
              7,
              100,
              1_000,
              2_000,
              published,
              0));
      said = news.put(said);
    }
    assertThat(news.hear()).singleElement().extracting("publishedMillis").isEqualTo(3_000L);
  }

  @ParameterizedTest
  @ValueSource(strings = {"gone", "cut off", "written again"})
  void whatIsDamagedSinceIsNotTakenForPublished(String damage) throws IOException {
    publishedByAWorkerThatDied();
    Path file = output.resolve("step1").resolve(Scratch.MODEL);
    byte[] bytes = Files.readAllBytes(file);
    switch (damage) {
      case "gone" -> Files.delete(file);
      case "cut off" -> {
        FileTime written = Files.getLastModifiedTime(file);
        Files.write(file, Arrays.copyOf(bytes, bytes.length - 1));
        Files.setLastModifiedTime(file, written);
      }
      default -> {
        Files.write(file, bytes);
        Files.setLastModifiedTime(file, FileTime.fromMillis(System.currentTimeMillis() + 60_000));
      }
    }
    assertThat(tenSteps())
        .singleElement()
        .asString()
        .startsWith("FAILED step1")
        .contains("is not as it was written");
  }

  private List<String> tenSteps() throws IOException {
    List<String> said = new ArrayList<>();
    for (int i = 0; i < 10 && !state.over(); i++) {
      said.addAll(steps());
    }
    return said;
  }

  @Test
  void aRefusedOneIsWrittenDownAndFollowingGoesOn() throws IOException {
    saving.save("step1");
    steps();
    end(ReshardEnd.Kind.REFUSED, "the bytes have the CRC-32 0");
    saving.save("step2");
    assertThat(steps()).containsExactly("REFUSED step1 the bytes have the CRC-32 0");
    assertThat(output.resolve("refused/step1.json")).content().contains("the bytes have the CRC");
    assertThat(tagInHand()).isEqualTo("step2");
    end(ReshardEnd.Kind.REFUSED, "no");
    steps();

    restart();
    assertThat(steps())
        .containsExactlyInAnyOrder("REFUSED step1 the bytes have the CRC-32 0", "REFUSED step2 no");
    saving.save("step1");
    assertThat(steps()).isEmpty();
    assertThat(tagInHand()).isEqualTo("step1");
    publish();
    assertThat(steps()).containsExactly("PUBLISHED step1");
    assertThat(output.resolve("refused/step1.json")).doesNotExist();
  }

  @Test
  void keepRotatesTheOutputAndNeverRemovesTheNewest() throws IOException {
    options.setKeep(2);
    for (String tag : List.of("step1", "step2", "step3")) {
      saving.save(tag);
      steps();
      publish();
      assertThat(steps()).containsExactly("PUBLISHED " + tag);
    }
    assertThat(output.resolve("step1")).doesNotExist();
    assertThat(output.resolve("step2")).exists();
    assertThat(output.resolve("latest")).hasContent("step3");
    restart();
    assertThat(steps())
        .containsExactlyInAnyOrder(
            "KNOWN step2", "KNOWN step3", "SKIPPED step1 older than what stands in the output");
  }

  @Test
  void anOlderOneDoesNotBecomeTheLatest() throws IOException {
    saving.save("step1");
    saving.save("step2");
    steps();
    end(ReshardEnd.Kind.CHANGED, "a file changed");
    steps();
    // While step1 is looked at again, the next one has its turn.
    assertThat(tagInHand()).isEqualTo("step2");
    publish();
    steps();
    assertThat(tagInHand()).isEqualTo("step1");
    assertThat(inHand().get(0).target())
        .extracting("publishing")
        .extracting("leads")
        .isEqualTo(false);
  }

  @Test
  void whatIsUnderWayIsAbandonedIfItDoesNotEndInTime() throws IOException {
    saving.save("step1");
    steps();
    directory.put(Follower.STOP, new byte[0]);
    List<String> said = steps();
    said.addAll(steps());
    assertThat(said)
        .containsExactly(
            "GONE step1 was under way and is abandoned, because the job was asked to stop",
            "OVER  asked to stop");
    assertThat(reshards.underWay(RUN)).isEmpty();
    assertThat(output).isDirectoryNotContaining("glob:**.unpublished");
  }

  @Test
  void aSecondOneSaysSoAndStops() throws IOException {
    JobDirectory other = new LocalJobDirectory(output.toString());
    assertThatThrownBy(() -> other.acquire("other"))
        .isInstanceOf(OutputHeldException.class)
        .hasMessageContaining("another run is writing to it");
    assertThat(directory.renew(RUN)).isTrue();
  }

  @Test
  void oneThatWasTakenForDeadEnds() throws IOException {
    steps();
    Files.delete(output.resolve(JobDirectory.NAME).resolve(JobDirectory.LOCK));
    new LocalJobDirectory(output.toString()).acquire("other");
    now += 10_000;
    assertThat(steps()).singleElement().asString().contains("FAILED", "another job follows");
    assertThat(state.over()).isTrue();
  }

  @Test
  void severalSizesHaveADirectoryEachAndOneThatIsRefusedHindersNone() throws IOException {
    options.setTargetWorldSize(null);
    options.setTargetWorldSizes("2,5");
    restart();
    saving.save("step1");
    steps();
    assertThat(state.inHand().targets())
        .extracting(Following.Target::directory)
        .containsExactly(output + "/world-2", output + "/world-5");
    List<Reshard> hand = inHand();
    reshards.published(hand.get(0));
    hand.get(1).target().abandon();
    reshards.end(hand.get(1).key(), ReshardEnd.of(ReshardEnd.Kind.REFUSED, "does not divide"));
    assertThat(steps()).containsExactly("PUBLISHED step1", "REFUSED step1 does not divide");
  }

  @Test
  void everyCountsFromWhatStandsInTheOutput() throws IOException {
    options.setEvery(3);
    for (String tag : List.of("step1", "step2")) {
      saving.save(tag);
    }
    steps();
    publish();
    steps();
    restart();
    assertThat(steps()).containsExactlyInAnyOrder("KNOWN step1", "SKIPPED step2 --every=3");
    saving.save("step3");
    assertThat(steps()).containsExactly("SKIPPED step3 --every=3");
    saving.save("step4");
    assertThat(steps()).isEmpty();
    assertThat(tagInHand()).isEqualTo("step4");
  }

  /** A runner that goes on from an earlier step has no memory of what was begun since. */
  @Test
  void whatWasBegunAfterTheStepThatItGoesOnFromIsAbandonedAndBegunAgain() throws IOException {
    Following earlier = state;
    saving.save("step1");
    steps();
    Reshard lost = inHand().get(0);
    restart();
    state = earlier.next().next();
    assertThat(steps()).isEmpty();
    assertThat(tagInHand()).isEqualTo("step1");
    assertThat(inHand()).singleElement().extracting(Reshard::key).isNotEqualTo(lost.key());
    publish();
    assertThat(steps()).containsExactly("PUBLISHED step1");
  }

  /** A step that is taken twice writes into the same place. */
  @Test
  void whatWasBegunInTheVeryStepThatIsTakenAgainKeepsItsFiles() throws IOException {
    saving.save("step1");
    Following before = state;
    while (state.inHand() == null) {
      before = state;
      state = follower.step(state).state();
      now += 1_000;
    }
    follower.step(before);
    now += 1_000;
    state = follower.step(before).state();
    Reshard hand = reshards.find(state.inHand().targets().get(0).key()).orElseThrow();
    follower = new Follower(options, RUN, reshards, () -> now);
    state = follower.step(state).state();
    assertThat(reshards.underWay(RUN)).containsExactly(hand.key());
    assertThat(hand.target().kept()).isNotEmpty();
  }

  /** As a worker of Flink lives on after its job. */
  @Test
  void aNewJobTakesTheOutputsOfOneThatEndedInAProcessThatLives() throws IOException {
    saving.save("step1");
    steps();
    assertThat(inHand()).hasSize(1);
    Path lock = output.resolve(JobDirectory.NAME).resolve(JobDirectory.LOCK);
    JobDirectory next = new LocalJobDirectory(output.toString());
    assertThatThrownBy(() -> next.acquire("89abcdef")).isInstanceOf(OutputHeldException.class);
    long silent = LockHolder.DEAD_AFTER_MILLIS + 10_000;
    Files.setLastModifiedTime(lock, FileTime.fromMillis(System.currentTimeMillis() - silent));
    next.acquire("89abcdef");
    FollowedReshards its = new FollowedReshards(next, 1);
    its.abandonEarlier();
    next.clear();
    assertThat(next.names()).isEmpty();
    follower = new Follower(options, "89abcdef", its, () -> now);
    state = Following.START;
    assertThat(steps()).isEmpty();
    assertThat(tagInHand()).isEqualTo("step1");
    assertThat(its.underWay("89abcdef")).hasSize(1);
  }
}

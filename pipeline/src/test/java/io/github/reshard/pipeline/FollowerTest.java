package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.storage.JobDirectory;
import io.github.reshard.checkpoint.storage.LocalJobDirectory;
import io.github.reshard.checkpoint.storage.OutputHeldException;
import io.github.reshard.testing.Scratch;
import io.github.reshard.transforms.Reshard;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What a job that follows does next, by a clock that the tests turn and without any worker. */
class FollowerTest {
  private static final String RUN = "0123abcd";

  @TempDir Path scratch;
  private SavingRun saving;
  private Path output;
  private JobDirectory directory;
  private FollowedReshards reshards;
  private CommandOptions options;
  private Follower follower;
  private Following state = Following.START;
  private long now = 1_800_000_000_000L;
  private int items;

  @BeforeEach
  void begin() throws IOException {
    saving = new SavingRun(scratch.resolve("ckpt"));
    output = scratch.resolve("out");
    options = PipelineOptionsFactory.create().as(CommandOptions.class);
    options.setInput(saving.directory.toString());
    options.setOutput(output.toString());
    options.setTargetWorldSize(3);
    options.setPoll(1_000L);
    directory = new LocalJobDirectory(output.toString());
    directory.acquire(RUN);
    reshards = new FollowedReshards(directory, 1);
    restart();
  }

  /** Another process goes on with nothing but what stands in the output. */
  private void restart() {
    follower = new Follower(options, RUN, reshards, () -> now);
    state = Following.START;
  }

  /** Takes steps of a second until nothing happens any more; what was said, but for beginnings. */
  private List<String> steps() throws IOException {
    List<String> said = new ArrayList<>();
    for (int quiet = 0; quiet < 3 && !state.over(); ) {
      Follower.Step step = follower.step(state);
      state = step.next();
      items += step.items().size();
      now += 1_000;
      List<FollowEvent> events = new FollowNews(directory).hear();
      events.stream()
          .filter(event -> event.kind() != FollowEvent.Kind.BEGUN)
          .map(event -> (event.kind() + " " + event.checkpoint() + " " + event.message()).strip())
          .forEach(said::add);
      quiet = events.isEmpty() ? quiet + 1 : 0;
    }
    return said;
  }

  /** What is in hand, as a worker finds it. */
  private List<Reshard> inHand() throws IOException {
    List<Reshard> found = new ArrayList<>();
    for (String key : reshards.underWay(RUN)) {
      found.add(reshards.find(key).orElseThrow());
    }
    return found;
  }

  private String tagInHand() {
    return state.inHand() == null ? "" : state.inHand().of().saved().toString();
  }

  /** Ends what is in hand as a worker would, without making anything. */
  private void end(ReshardEnd.Kind kind, String message) throws IOException {
    for (Reshard reshard : inHand()) {
      reshard.target().abandon();
      reshards.end(reshard.key(), ReshardEnd.of(kind, message));
    }
  }

  /** Makes what is in hand with the main job, in a directory of its own, and moves it in. */
  private void publish() throws IOException {
    for (Reshard reshard : inHand()) {
      String tag = tagInHand();
      reshard.target().abandon();
      ReshardOptions main = Resharding.options(saving.directory, output, 3);
      main.setTag(tag);
      main.setOverwrite(true);
      Resharding.run(main);
      reshards.published(reshard);
    }
  }

  @Test
  void oneAfterTheOtherInTheOrderInWhichTheyWereWritten() throws IOException {
    saving.save("step10");
    saving.save("step9");
    assertThat(steps()).isEmpty();
    assertThat(tagInHand()).isEqualTo("step10");
    assertThat(items).isPositive();
    publish();
    assertThat(steps()).containsExactly("PUBLISHED step10");
    assertThat(tagInHand()).isEqualTo("step9");
  }

  @Test
  void whatIsNotWholeWaits() throws IOException {
    saving.save("step1");
    Files.delete(saving.directory.resolve("step1").resolve(Scratch.shard(3)));
    assertThat(steps()).isEmpty();
    assertThat(state.inHand()).isNull();
    saving.saveFile("step1", Scratch.shard(3));
    steps();
    assertThat(tagInHand()).isEqualTo("step1");
  }

  @Test
  void whatStaysIncompleteIsGivenUpByName() throws IOException {
    options.setGiveUpAfter(10_000L);
    saving.save("step1");
    Files.delete(saving.directory.resolve("step1").resolve(Scratch.shard(3)));
    List<String> said = new ArrayList<>();
    for (int i = 0; i < 5; i++) {
      said.addAll(steps());
    }
    assertThat(said).hasSize(1);
    assertThat(said.get(0)).contains("GIVEN_UP step1", Scratch.shard(3) + " is not there");
  }

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
    List<String> said = new ArrayList<>();
    for (int i = 0; i < 20 && !state.over(); i++) {
      said.addAll(steps());
    }
    assertThat(said.get(said.size() - 1)).startsWith("FAILED").contains("already holds this tag");
    assertThat(state.over()).isTrue();
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
  void whatThePlannerRefusesIsData() throws IOException {
    saving.save("step1");
    Path model = saving.directory.resolve("step1").resolve(Scratch.MODEL);
    Path other = saving.directory.resolve("step1").resolve(Scratch.shard(1));
    Files.copy(other, model.resolveSibling("zero_pp_rank_9_mp_rank_07_optim_states.pt"));
    List<String> said = steps();
    assertThat(said).hasSize(1);
    assertThat(said.get(0)).startsWith("REFUSED step1 ");
    assertThat(state.inHand()).isNull();
  }

  @Test
  void whatChangedWhileItWasReadIsLookedAtAgain() throws IOException {
    saving.save("step1");
    steps();
    end(ReshardEnd.Kind.CHANGED, "a file changed");
    saving.save("step1");
    assertThat(steps()).containsExactly("GONE step1 a file changed");
    assertThat(tagInHand()).isEqualTo("step1");
  }

  @Test
  void oneThatIsRemovedBeforeItsTurnIsNoFault() throws IOException {
    saving.save("step1");
    saving.save("step2");
    saving.save("step3");
    steps();
    saving.delete("step2");
    publish();
    assertThat(steps())
        .containsExactly("PUBLISHED step1", "GONE step2 was removed before its turn");
    assertThat(tagInHand()).isEqualTo("step3");
  }

  @Test
  void newestOnlyPassesOverTheOthersByName() throws IOException {
    options.setNewestOnly(true);
    saving.save("step1");
    saving.save("step2");
    saving.save("step3");
    assertThat(steps())
        .containsExactly(
            "SKIPPED step1 step3 is newer, as --newestOnly asks",
            "SKIPPED step2 step3 is newer, as --newestOnly asks");
    assertThat(tagInHand()).isEqualTo("step3");
    publish();
    steps();
    restart();
    assertThat(steps())
        .containsExactlyInAnyOrder(
            "KNOWN step3",
            "SKIPPED step1 older than what stands in the output",
            "SKIPPED step2 older than what stands in the output");
  }

  @Test
  void everyTakesEachKth() throws IOException {
    options.setEvery(2);
    for (String tag : List.of("step1", "step2", "step3")) {
      saving.save(tag);
    }
    assertThat(steps()).containsExactly("SKIPPED step2 --every=2");
    assertThat(tagInHand()).isEqualTo("step1");
    publish();
    steps();
    assertThat(tagInHand()).isEqualTo("step3");
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
  void aClockThatJumpsBackChangesNothing() throws IOException {
    saving.save("step1");
    assertThat(steps()).isEmpty();
    now -= 86_400_000;
    publish();
    assertThat(steps()).containsExactly("PUBLISHED step1");
    saving.save("step2");
    steps();
    assertThat(tagInHand()).isEqualTo("step2");
  }

  @Test
  void itEndsWhenItIsQuietAndNotWhileSomethingIsUnderWay() throws IOException {
    options.setUntil(5_000L);
    saving.save("step1");
    for (int i = 0; i < 5; i++) {
      assertThat(steps()).isEmpty();
    }
    publish();
    assertThat(steps()).containsExactly("PUBLISHED step1");
    steps();
    assertThat(steps()).isEmpty();
    assertThat(state.over()).isTrue();
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
  void filesBesideTheTagsThatChangeAllTheTimeAreLeftOut() throws IOException {
    saving.save("step1");
    Path log = Files.writeString(saving.directory.resolve("train.log"), "1");
    steps();
    for (Reshard reshard : inHand()) {
      reshard.target().abandon();
      reshards.end(
          reshard.key(),
          new ReshardEnd(
              ReshardEnd.Kind.BESIDE_CHANGED, log + " changed", List.of(log.toString()), now));
    }
    assertThat(steps()).singleElement().asString().contains("NOTE step1", "is left out");
    assertThat(tagInHand()).isEqualTo("step1");
    assertThat(state.leftOut()).containsExactly(log.toString());
    assertThat(inHand().get(0).source().list(saving.directory.toString()).files())
        .noneMatch(file -> file.name().equals("train.log"));
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
}

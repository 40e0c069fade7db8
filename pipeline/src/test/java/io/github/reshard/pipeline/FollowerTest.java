package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.testing.Scratch;
import io.github.reshard.transforms.Reshard;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

/** What a job that follows does next. */
class FollowerTest extends SteppedFollower {
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

  /** It may be refused because half of it is gone, and no look has shown that yet. */
  @Test
  void oneThatIsRemovedWhileItIsReadIsNotRefused() throws IOException {
    options.setPoll(3_600_000L);
    saving.save("step1");
    steps();
    saving.delete("step1");
    end(ReshardEnd.Kind.REFUSED, "a file is gone");
    assertThat(steps()).containsExactly("GONE step1 changed");
    assertThat(output.resolve("refused")).doesNotExist();
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
}

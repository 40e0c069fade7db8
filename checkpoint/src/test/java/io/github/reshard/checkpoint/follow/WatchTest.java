package io.github.reshard.checkpoint.follow;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import java.io.IOException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Predicate;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.Size;
import org.junit.jupiter.api.Test;

/** The rule, on directories that exist as lists and by a clock that the tests turn. */
class WatchTest {
  private static final long GIVE_UP = 60_000;

  private final Map<String, Map<String, FileStat>> tags = new TreeMap<>();
  private Watched watched = Watched.NOTHING;
  private Watch.Step step;
  private long now = 1_000_000;

  /** Two files make a tag whole; those of a name that says so are refused. */
  private static List<String> missing(Look look, Predicate<FileStat> stale) {
    if (look.saved().tag().startsWith("fast")) {
      throw new RefusedException(look.directory(), "of the fast writer");
    }
    List<String> missing = new ArrayList<>(List.of("a", "b"));
    look.files().stream()
        .filter(file -> !stale.test(file) && file.bytes() == 100)
        .forEach(file -> missing.remove(file.name()));
    return missing;
  }

  private void write(String tag, String name, int bytes, long when) {
    String path = "/ckpt/" + tag + "/" + name;
    Instant written = Instant.ofEpochMilli(when);
    FileStat stat = new FileStat(path, name, bytes, written.toString(), false, written);
    tags.computeIfAbsent(tag, t -> new TreeMap<>()).put(name, stat);
  }

  private List<String> look() {
    List<Look> looks = new ArrayList<>();
    tags.forEach(
        (tag, files) ->
            looks.add(
                new Look(
                    new SavedTag("", tag),
                    "/ckpt",
                    "/ckpt/" + tag,
                    List.copyOf(files.values()),
                    List.of(),
                    List.of())));
    try {
      step = new Watch(GIVE_UP).step(watched, looks, WatchTest::missing, now);
    } catch (IOException e) {
      throw new AssertionError(e);
    }
    watched = step.watched();
    return step.news().stream().map(WatchTest::said).toList();
  }

  private static String said(Watch.News news) {
    String kind =
        news instanceof Watch.Whole
            ? "whole"
            : news instanceof Watch.GivenUp givenUp
                ? "given up " + givenUp.missing()
                : "refused " + ((Watch.Refused) news).message();
    return news.look().saved() + " " + kind;
  }

  @Test
  void twoLooksThatAreEqualMakeItWholeOnce() {
    write("s1", "a", 100, 1);
    assertThat(look()).isEmpty();
    assertThat(step.settling()).isFalse();
    write("s1", "b", 50, 2);
    assertThat(look()).isEmpty();
    write("s1", "b", 100, 3);
    assertThat(look()).isEmpty();
    assertThat(step.settling()).isTrue();
    now += 10;
    assertThat(look()).containsExactly("s1 whole");
    assertThat(((Watch.Whole) step.news().get(0)).wholeMillis()).isEqualTo(now - 10);
    assertThat(look()).isEmpty();
    assertThat(step.settling()).isFalse();
  }

  @Test
  void whatChangesBetweenTwoLooksIsLookedAtAgain() {
    write("s1", "a", 100, 1);
    write("s1", "b", 100, 1);
    look();
    write("s1", "a", 100, 2);
    assertThat(look()).isEmpty();
    assertThat(look()).containsExactly("s1 whole");
  }

  @Test
  void aTagWrittenAgainIsWholeWhenNothingOfTheEarlierOneIsLeft() {
    write("s1", "a", 100, 1);
    write("s1", "b", 100, 1);
    look();
    look();
    write("s1", "a", 100, 2);
    assertThat(look()).isEmpty();
    assertThat(look()).isEmpty();
    write("s1", "b", 100, 2);
    assertThat(look()).isEmpty();
    assertThat(look()).containsExactly("s1 whole");
  }

  @Test
  void whatStaysIncompleteIsGivenUpOnceWithWhatIsMissing() {
    write("s1", "a", 100, 1);
    look();
    now += GIVE_UP;
    assertThat(look()).isEmpty();
    now += 1;
    assertThat(look()).containsExactly("s1 given up [b]");
    assertThat(look()).isEmpty();
    write("s1", "b", 100, 2);
    look();
    assertThat(look()).containsExactly("s1 whole");
  }

  @Test
  void aClockThatJumpsBackNeitherHurriesNorWaits() {
    write("s1", "a", 100, 1);
    look();
    now -= 10_000_000;
    assertThat(look()).isEmpty();
    now += GIVE_UP + 1;
    assertThat(look()).containsExactly("s1 given up [b]");
    write("s1", "b", 100, 2);
    look();
    now -= 10_000_000;
    assertThat(look()).containsExactly("s1 whole");
  }

  @Test
  void twoCommitsBetweenTwoLooksComeInTheirOrder() {
    for (String tag : List.of("z-first", "a-second")) {
      write(tag, "a", 100, tag.startsWith("z") ? 1_000 : 2_000);
      write(tag, "b", 100, tag.startsWith("z") ? 1_000 : 2_000);
    }
    look();
    assertThat(look()).containsExactly("z-first whole", "a-second whole");
  }

  @Test
  void whatIsRefusedIsSaidOnce() {
    write("fast1", "a", 100, 1);
    assertThat(look()).isEmpty();
    assertThat(look()).containsExactly("fast1 refused /ckpt: of the fast writer");
    assertThat(look()).isEmpty();
  }

  @Test
  void nothingIsRememberedOfWhatIsGone() {
    for (int i = 0; i < 1000; i++) {
      write("s" + i, "a", 100, i);
      write("s" + i, "b", 100, i);
      look();
      assertThat(look()).hasSize(1);
      tags.clear();
    }
    look();
    assertThat(watched.tags()).isEmpty();
  }

  @Test
  void whatWasForgottenIsSaidAgainAndWhatIsKnownIsNot() {
    write("s1", "a", 100, 1);
    write("s1", "b", 100, 1);
    look();
    assertThat(look()).hasSize(1);
    watched = watched.forget(new SavedTag("", "s1"));
    assertThat(look()).isEmpty();
    assertThat(look()).containsExactly("s1 whole");
  }

  /**
   * Whatever is written when, nothing is said to be whole but what is complete, unchanged since the
   * look before and of one save; and when the writer has come to its end everything is.
   */
  @Property(tries = 300)
  void nothingWrongIsSaidAndEverythingWholeIs(
      @ForAll @Size(max = 60) List<@IntRange(min = 0, max = 11) Integer> moves) {
    tags.clear();
    watched = Watched.NOTHING;
    Map<String, Integer> save = new TreeMap<>();
    for (int move : moves) {
      String tag = "s" + move % 2;
      int kind = move / 2;
      if (kind < 2) {
        // A file of the next save, first a part of it.
        int next = save.merge(tag, 1, Integer::sum);
        write(tag, kind == 0 ? "a" : "b", 50, next);
      } else if (kind < 4) {
        write(tag, kind == 2 ? "a" : "b", 100, save.merge(tag, 1, Integer::sum));
      } else if (kind == 4) {
        tags.remove(tag);
      } else {
        now += 1000 - 1500L * (move % 2);
        requireRight(look());
      }
    }
    for (String tag : List.of("s0", "s1")) {
      for (String name : List.of("a", "b")) {
        write(tag, name, 100, save.merge(tag, 1, Integer::sum));
      }
    }
    look();
    assertThat(look()).containsExactlyInAnyOrder("s0 whole", "s1 whole");
  }

  private void requireRight(List<String> said) {
    for (String one : said) {
      if (one.endsWith("whole")) {
        Map<String, FileStat> files = tags.get(one.substring(0, 2));
        assertThat(files).containsOnlyKeys("a", "b");
        assertThat(files.values()).allMatch(file -> file.bytes() == 100);
      }
    }
  }

  @Test
  void stepsAreInTheOrderOfTheirNumbers() {
    List<SavedTag> tags = new ArrayList<>();
    for (String name : List.of("b", "a10", "a9", "a", "a9b2", "a9b10", "a09", "a9x")) {
      tags.add(new SavedTag("", name));
    }
    tags.sort(null);
    assertThat(tags)
        .extracting(SavedTag::tag)
        .containsExactly("a", "a9", "a09", "a9b2", "a9b10", "a9x", "a10", "b");
  }
}

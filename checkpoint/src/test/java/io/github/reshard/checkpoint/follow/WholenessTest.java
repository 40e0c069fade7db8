package io.github.reshard.checkpoint.follow;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** On checkpoints that DeepSpeed saved: whole as they are, and not with anything taken away. */
class WholenessTest {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  private static final String RANK_1 = "zero_pp_rank_1_mp_rank_00_optim_states.pt";

  @TempDir Path directory;

  private final LocalSourceStore store = new LocalSourceStore();

  /** Every directory of tags that is there. */
  static Stream<Path> saved() throws IOException {
    try (Stream<Path> all = Files.walk(TESTDATA)) {
      return all
          .filter(Files::isDirectory)
          .filter(
              path ->
                  children(path).stream()
                      .filter(Files::isDirectory)
                      .anyMatch(tag -> children(tag).stream().anyMatch(WholenessTest::isOptimizer)))
          .toList()
          .stream();
    }
  }

  private static boolean isOptimizer(Path file) {
    return file.getFileName().toString().matches("(bf16_)?zero_pp_rank_.*optim_states.pt");
  }

  private static List<Path> children(Path path) {
    try (Stream<Path> children = Files.list(path)) {
      return children.sorted().toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private List<Look> looks(Path at) throws IOException {
    return new SavedTags(store, at.toString()).look();
  }

  private List<String> missing(Look look) throws IOException {
    return new Wholeness(store).missing(look, file -> false);
  }

  private List<String> missing() throws IOException {
    List<Look> looks = looks(directory);
    assertThat(looks).hasSize(1);
    return missing(looks.get(0));
  }

  @ParameterizedTest
  @MethodSource("saved")
  void whatDeepSpeedSavedIsWhole(Path at) throws IOException {
    for (Look look : looks(at)) {
      assertThat(missing(look)).as(look.tagDirectory()).isEmpty();
    }
  }

  /** Without any one file of a rank, and with any of them cut off anywhere, it is not. */
  @ParameterizedTest
  @ValueSource(
      strings = {
        "corpus/z2-fp32-twogroups",
        "corpus/z3-fp32",
        "corpus/pp2-z1",
        "corpus/tp2-z1",
        "corpus/moe-z2-ep2",
        "corpus/z1-bf16"
      })
  void withoutAFileItIsNot(String name) throws IOException {
    Path source = TESTDATA.resolve(name).resolve("source");
    copy(source, directory);
    Path tag = children(directory).stream().filter(Files::isDirectory).findFirst().orElseThrow();
    for (Path file : children(tag)) {
      byte[] content = Files.readAllBytes(file);
      if (!file.toString().endsWith(".pt")) {
        continue;
      }
      String what = file.getFileName().toString();
      for (int length : new int[] {0, 3, 40, content.length / 2, content.length - 1}) {
        Files.write(file, Arrays.copyOf(content, length));
        assertThat(missing()).as(what + " of " + length).anyMatch(m -> m.startsWith(what + " "));
      }
      Files.write(file, Arrays.copyOf(content, content.length + 1));
      assertThat(missing()).as(what + " and more").isNotEmpty();
      if (!what.startsWith("layer_") && !what.startsWith("expp_")) {
        Files.delete(file);
        assertThat(missing()).as("without " + what).isNotEmpty();
      }
      Files.write(file, content);
    }
    assertThat(missing()).isEmpty();
  }

  /** DeepSpeed writes `latest` first and the file of the last rank seconds later. */
  @Test
  void latestDoesNotMakeItWhole() throws IOException {
    copy(TESTDATA.resolve("corpus/z2-fp32-twogroups/source"), directory);
    Path late = directory.resolve("global_step3").resolve(RANK_1);
    Files.delete(late);
    assertThat(directory.resolve("latest")).exists();
    assertThat(missing()).containsExactly(RANK_1 + " is not there");
  }

  @Test
  void aFileOfAnEarlierSaveCountsAsMissing() throws IOException {
    copy(TESTDATA.resolve("corpus/z2-fp32-twogroups/source"), directory);
    Look look = looks(directory).get(0);
    assertThat(new Wholeness(store).missing(look, file -> file.name().equals(RANK_1)))
        .containsExactly(RANK_1 + " is not there");
  }

  @Test
  void trainerWritesAfterDeepSpeed() throws IOException {
    Path saved = directory.resolve("checkpoint-3");
    copy(TESTDATA.resolve("corpus/z1-bf16/source"), saved);
    int ranks =
        (int)
            children(saved.resolve("global_step3")).stream()
                .filter(WholenessTest::isOptimizer)
                .count();
    List<String> expected = new ArrayList<>();
    for (int r = 0; r < ranks; r++) {
      expected.add("rng_state_" + r + ".pth is not there");
    }
    expected.add("trainer_state.json is not there");
    assertThat(missing()).containsExactlyElementsOf(expected);
    for (int r = 0; r < ranks; r++) {
      Files.copy(
          TESTDATA.resolve("corpus/z1-bf16/source/global_step3/mp_rank_00_model_states.pt"),
          saved.resolve("rng_state_" + r + ".pth"));
    }
    Files.writeString(saved.resolve("trainer_state.json"), "{\n  \"epoch\": 1,");
    assertThat(missing()).containsExactly("trainer_state.json has no end yet");
    Files.writeString(saved.resolve("trainer_state.json"), "{\n  \"epoch\": 1}\n");
    assertThat(missing()).isEmpty();
    assertThat(looks(directory).get(0).saved())
        .isEqualTo(new SavedTag("checkpoint-3", "global_step3"));
  }

  @Test
  void withAccelerateTheStatesOfAllProcessesAreOfIt() throws IOException {
    copy(TESTDATA.resolve("corpus/z2-fp32-twogroups/source"), directory);
    Files.move(directory.resolve("global_step3"), directory.resolve("pytorch_model"));
    Files.writeString(directory.resolve("random_states_0.pkl"), "x");
    assertThat(missing()).first().isEqualTo("random_states_1.pkl is not there");
    for (int r = 1; r < 8; r++) {
      Files.writeString(directory.resolve("random_states_" + r + ".pkl"), "xxxx");
    }
    assertThat(missing()).containsExactly("random_states_0.pkl has no beginning yet");
  }

  @Test
  void partsOfTheFastWriterAreRefused() throws IOException {
    copy(TESTDATA.resolve("corpus/z2-fp32-twogroups/source"), directory);
    Files.writeString(directory.resolve("global_step3").resolve(RANK_1 + "-0.1"), "x");
    assertThatThrownBy(this::missing)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("fast writer");
  }

  @Test
  void aPlaceholderIsRefused() throws IOException {
    copy(TESTDATA.resolve("corpus/z2-fp32-twogroups/source"), directory);
    Files.write(directory.resolve("global_step3").resolve(RANK_1), TorchText.of(""));
    assertThatThrownBy(this::missing)
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("Nebula");
  }

  @Test
  void tagsMayBePathsAndOthersAreNotLookedAt() throws IOException {
    copy(
        TESTDATA.resolve("corpus/z1-bf16/source/global_step3"),
        directory.resolve("epoch_1/step_3"));
    Files.writeString(directory.resolve("latest"), "epoch_1/step_3");
    Files.createDirectories(directory.resolve("logs"));
    Files.createDirectories(directory.resolve(".reshard-x.unpublished"));
    assertThat(looks(directory))
        .extracting(Look::saved)
        .containsExactly(new SavedTag("", "epoch_1/step_3"));
  }

  @Test
  void nothingIsThereYet() throws IOException {
    assertThat(looks(directory.resolve("none"))).isEmpty();
  }

  /** A file that changes between the listing and the look at it is missing, not wrong. */
  @Test
  void whatChangesMeanwhileIsMissing() throws IOException {
    copy(TESTDATA.resolve("corpus/z2-fp32-twogroups/source"), directory);
    Look look = looks(directory).get(0);
    Path late = directory.resolve("global_step3").resolve(RANK_1);
    Files.write(late, new byte[10]);
    assertThat(missing(look)).singleElement().asString().contains(RANK_1).contains("changed");
    Files.delete(late);
    assertThat(missing(look)).singleElement().asString().contains(RANK_1).contains("gone");
  }

  @Test
  void sameFilesHaveTheSameFingerprint() throws IOException {
    copy(TESTDATA.resolve("corpus/z2-fp32-twogroups/source"), directory);
    Look look = looks(directory).get(0);
    assertThat(looks(directory).get(0).fingerprint()).isEqualTo(look.fingerprint());
    Path file = directory.resolve("global_step3").resolve(RANK_1);
    Files.setLastModifiedTime(file, java.nio.file.attribute.FileTime.fromMillis(1_000_000));
    assertThat(looks(directory).get(0).fingerprint()).isNotEqualTo(look.fingerprint());
    assertThat(look.all()).extracting(FileStat::name).contains(RANK_1);
  }

  static void copy(Path from, Path to) throws IOException {
    try (Stream<Path> all = Files.walk(from)) {
      for (Path path : all.toList()) {
        Path target = to.resolve(from.relativize(path).toString());
        if (Files.isDirectory(path)) {
          Files.createDirectories(target);
        } else {
          Files.copy(path, target);
        }
      }
    }
  }
}

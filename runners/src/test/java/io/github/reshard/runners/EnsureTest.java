package io.github.reshard.runners;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.storage.LockHolder;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** {@code ensure}, as launch scripts call it. */
class EnsureTest {
  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  private static final String TAG = "global_step3";
  private static final String MODEL = TAG + "/mp_rank_00_model_states.pt";

  @TempDir Path scratch;
  private Path checkpoint;

  /** What one call said. */
  private record Said(int code, String out, String err) {}

  @BeforeEach
  void copyCheckpoint() throws IOException {
    checkpoint = scratch.resolve("a run/ckpt");
    copy(TESTDATA.resolve("corpus/z2-bf16-clip/source"), checkpoint);
  }

  private static Said ensure(Object... args) {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    ByteArrayOutputStream err = new ByteArrayOutputStream();
    List<String> all = new ArrayList<>(List.of("ensure"));
    Stream.of(args).forEach(arg -> all.add(arg.toString()));
    int code =
        new Main(
                new PrintStream(out, true, StandardCharsets.UTF_8),
                new PrintStream(err, true, StandardCharsets.UTF_8),
                Map.of(),
                "")
            .run(all.toArray(new String[0]));
    return new Said(
        code, out.toString(StandardCharsets.UTF_8), err.toString(StandardCharsets.UTF_8));
  }

  private static void copy(Path from, Path to) throws IOException {
    Files.createDirectories(to.getParent());
    try (Stream<Path> all = Files.walk(from)) {
      for (Path path : all.toList()) {
        Files.copy(
            path, to.resolve(from.relativize(path).toString()), StandardCopyOption.COPY_ATTRIBUTES);
      }
    }
  }

  private static Object version(Path file) throws IOException {
    return Files.getAttribute(file, "unix:ino") + " " + Files.getLastModifiedTime(file);
  }

  private static void touch(Path file) throws IOException {
    Files.setLastModifiedTime(
        file, FileTime.from(Files.getLastModifiedTime(file).toInstant().plusSeconds(1)));
  }

  private Path made() {
    return scratch.resolve("a run/ckpt-world-4");
  }

  @Test
  void aCheckpointOfTheSizeIsItsOwnAnswer() throws IOException {
    Said said = ensure(checkpoint + "/", "--targetWorldSize=6");

    assertThat(said).isEqualTo(new Said(0, checkpoint + "\n", ""));
    assertThat(ensure(checkpoint.resolve(TAG), "--targetWorldSize=6").out())
        .isEqualTo(checkpoint + "\n");
    try (Stream<Path> there = Files.list(checkpoint.getParent())) {
      assertThat(there).containsExactly(checkpoint);
    }
  }

  @Test
  void anotherSizeIsMadeOnceAndThenFound() throws IOException {
    Said first = ensure(checkpoint, "--targetWorldSize=4");
    Object manifest = version(made().resolve(TAG + "/reshard-manifest.json"));
    Said second = ensure(checkpoint, "--targetWorldSize=4");

    assertThat(first.code()).isEqualTo(0);
    assertThat(first.out()).isEqualTo(made() + "\n");
    assertThat(first.err()).contains("6 → 4 data-parallel ranks", "proven");
    assertThat(second).isEqualTo(new Said(0, made() + "\n", ""));
    assertThat(version(made().resolve(TAG + "/reshard-manifest.json"))).isEqualTo(manifest);
  }

  @Test
  void anotherSizeGetsAnotherDirectory() {
    ensure(checkpoint, "--targetWorldSize=4");

    assertThat(ensure(checkpoint, "--targetWorldSize=3").out())
        .isEqualTo(made().resolveSibling("ckpt-world-3") + "\n");
  }

  @Test
  void aSourceThatWasSavedAgainIsReshardedAgain() throws IOException {
    ensure(checkpoint, "--targetWorldSize=4");
    Object manifest = version(made().resolve(TAG + "/reshard-manifest.json"));
    touch(checkpoint.resolve(MODEL));

    Said again = ensure(checkpoint, "--targetWorldSize=4");

    assertThat(again.out()).isEqualTo(made() + "\n");
    assertThat(version(made().resolve(TAG + "/reshard-manifest.json"))).isNotEqualTo(manifest);
  }

  @Test
  void anotherSizeInTheSameOutputTakesItsPlace() throws IOException {
    Path output = scratch.resolve("out");
    ensure(checkpoint, "--targetWorldSize=4", "--output=" + output);

    assertThat(ensure(checkpoint, "--targetWorldSize=3", "--output=" + output).out())
        .isEqualTo(output + "\n");
    try (Stream<Path> files = Files.list(output.resolve(TAG))) {
      assertThat(files.filter(file -> file.toString().endsWith("optim_states.pt"))).hasSize(3);
    }
  }

  @Test
  void theNextTagGoesBesideAndLatestFollows() throws IOException {
    ensure(checkpoint, "--targetWorldSize=4");
    saveNext("global_step4");

    ensure(checkpoint, "--targetWorldSize=4");

    assertThat(made().resolve(TAG)).isDirectory();
    assertThat(made().resolve("latest")).hasContent("global_step4");
  }

  private void saveNext(String tag) throws IOException {
    copy(checkpoint.resolve(TAG), checkpoint.resolve(tag));
    Files.writeString(checkpoint.resolve("latest"), tag);
  }

  @Test
  void keepRemovesTheOlderOnesThatThisProgramMade() throws IOException {
    Path own = made().resolve("notes");
    ensure(checkpoint, "--targetWorldSize=4");
    Files.createDirectories(own);
    for (String tag : List.of("global_step4", "global_step5")) {
      saveNext(tag);
      ensure(checkpoint, "--targetWorldSize=4", "--keep=2");
    }

    try (Stream<Path> there = Files.list(made())) {
      assertThat(there.map(path -> path.getFileName().toString()))
          .containsExactlyInAnyOrder("global_step4", "global_step5", "latest", "notes");
    }
    assertThat(ensure(checkpoint, "--targetWorldSize=4", "--keep=0").code()).isEqualTo(2);
  }

  @Test
  void keepLeavesWhatTrainingSavedOverIt() throws IOException {
    ensure(checkpoint, "--targetWorldSize=4");
    saveNext("global_step4");
    ensure(checkpoint, "--targetWorldSize=4");
    Path manifest = made().resolve(TAG + "/reshard-manifest.json");
    Files.setLastModifiedTime(
        made().resolve(MODEL),
        FileTime.from(Files.getLastModifiedTime(manifest).toInstant().plus(Duration.ofHours(1))));
    saveNext("global_step5");

    Said said = ensure(checkpoint, "--targetWorldSize=4", "--keep=1");

    assertThat(said.code()).isEqualTo(0);
    assertThat(said.err())
        .contains("kept the older " + made().resolve(TAG), "removed the older " + made());
    assertThat(made().resolve(MODEL)).exists();
    assertThat(made().resolve("global_step4")).doesNotExist();
  }

  /** The files of stage 1 are as long as those of stage 2. */
  @ParameterizedTest
  @CsvSource({"1, ZeRO-1", "2, as saved", "3, ZeRO-3"})
  void anotherStageInTheSameOutputIsReplaced(int stage, String form) throws IOException {
    Path output = scratch.resolve("out");
    int code =
        new Main(System.out, System.err, Map.of(), "")
            .run(
                "--input=" + checkpoint,
                "--targetWorldSize=4",
                "--targetStage=" + stage,
                "--output=" + output);
    assertThat(code).isEqualTo(0);
    Path manifest = output.resolve(TAG + "/reshard-manifest.json");
    assertThat(manifest).content().contains("\"form\" : \"" + form + "\"");
    FileTime made = Files.getLastModifiedTime(manifest);

    assertThat(ensure(checkpoint, "--targetWorldSize=4", "--output=" + output).code()).isEqualTo(0);
    assertThat(manifest).content().contains("\"form\" : \"as saved\"");
    assertThat(Files.getLastModifiedTime(manifest).equals(made)).isEqualTo(stage == 2);
    assertThat(output.resolve(MODEL)).exists();
    assertThat(output.resolve(TAG + "/zero_pp_rank_0_mp_rank_00_model_states.pt")).doesNotExist();
  }

  @Test
  void whatTrainingSavedInTheOutputIsNeverReplaced() throws IOException {
    ensure(checkpoint, "--targetWorldSize=4");
    copy(made().resolve(TAG), made().resolve("global_step9"));
    Files.delete(made().resolve("global_step9/reshard-manifest.json"));
    Files.writeString(made().resolve("latest"), "global_step9");

    Said said = ensure(checkpoint, "--targetWorldSize=4");

    assertThat(said.code()).isEqualTo(4);
    assertThat(said.out()).isEmpty();
    assertThat(said.err()).contains("did not make", "give it as --input");
    assertThat(made().resolve("latest")).hasContent("global_step9");
  }

  @Test
  void aTagThatTrainingSavedAnewUnderTheSameNameIsNeverReplaced() throws IOException {
    ensure(checkpoint, "--targetWorldSize=4");
    Path manifest = made().resolve(TAG + "/reshard-manifest.json");
    Files.setLastModifiedTime(
        made().resolve(MODEL),
        FileTime.from(Files.getLastModifiedTime(manifest).toInstant().plus(Duration.ofHours(1))));

    assertThat(ensure(checkpoint, "--targetWorldSize=4").code()).isEqualTo(4);
  }

  @Test
  void aFileThatIsGoneFromTheOutputIsNotPassedOver() throws IOException {
    ensure(checkpoint, "--targetWorldSize=4");
    Files.delete(made().resolve(MODEL));

    assertThat(ensure(checkpoint, "--targetWorldSize=4").code()).isEqualTo(4);
  }

  @Test
  void manyAtOnceAgreeAndOneWorks() throws Exception {
    List<Callable<Said>> ranks = new ArrayList<>();
    for (int rank = 0; rank < 4; rank++) {
      ranks.add(() -> ensure(checkpoint, "--targetWorldSize=4"));
    }
    List<Said> said = new ArrayList<>();
    ExecutorService nodes = Executors.newFixedThreadPool(ranks.size());
    try {
      for (Future<Said> one : nodes.invokeAll(ranks)) {
        said.add(one.get());
      }
    } finally {
      nodes.shutdownNow();
    }

    assertThat(said).allSatisfy(one -> assertThat(one.out()).isEqualTo(made() + "\n"));
    assertThat(said).filteredOn(one -> one.err().contains("Resharded")).hasSize(1);
  }

  @Test
  void theLockOfADeadWorkerIsTakenOver() throws Exception {
    Process dead = new ProcessBuilder("true").start();
    dead.waitFor();
    LockHolder here = LockHolder.here("11111111");
    LockHolder gone =
        new LockHolder(
            here.run(), here.host(), here.machine(), dead.pid(), here.started(), here.since(), "");
    Files.createDirectories(made());
    Files.write(made().resolve(".reshard-" + TAG + ".lock"), gone.toBytes());

    assertThat(ensure(checkpoint, "--targetWorldSize=4").out()).isEqualTo(made() + "\n");
    try (Stream<Path> there = Files.list(made())) {
      assertThat(there.map(path -> path.getFileName().toString()))
          .noneMatch(name -> name.startsWith(".reshard"));
    }
  }

  @Test
  void ofTrainersOutputTheNewestWholeOneIsTaken() throws IOException {
    Path trainer = scratch.resolve("trainer");
    for (String name : List.of("checkpoint-90", "checkpoint-100", "checkpoint-110")) {
      copy(checkpoint, trainer.resolve(name));
      Files.writeString(trainer.resolve(name).resolve("trainer_state.json"), "{}");
    }
    Files.delete(trainer.resolve("checkpoint-110/latest"));
    Path output = scratch.resolve("trainer-world-2");

    Said said = ensure(trainer, "--targetWorldSize=2");

    assertThat(said.out()).isEqualTo(output.resolve("checkpoint-100") + "\n");
    assertThat(said.err()).contains("checkpoint-110 was not saved to the end");
    assertThat(output.resolve("checkpoint-100/trainer_state.json")).exists();
    assertThat(ensure(trainer, "--targetWorldSize=6").out())
        .isEqualTo(trainer.resolve("checkpoint-100") + "\n");
  }

  @Test
  void ofTrainersCheckpointsTheOlderOnesGoToo() throws IOException {
    Path trainer = scratch.resolve("trainer");
    for (String name : List.of("checkpoint-90", "checkpoint-100")) {
      copy(checkpoint, trainer.resolve(name));
      Files.writeString(trainer.resolve(name).resolve("trainer_state.json"), "{}");
      ensure(trainer, "--targetWorldSize=2", "--keep=1");
    }

    try (Stream<Path> there = Files.list(scratch.resolve("trainer-world-2"))) {
      assertThat(there.map(path -> path.getFileName().toString()))
          .containsExactly("checkpoint-100");
    }
  }

  @Test
  void gpusAreDividedByTheDegrees() throws IOException {
    Path pipeline = scratch.resolve("pp");
    copy(TESTDATA.resolve("corpus/pp2-z1/source"), pipeline);

    assertThat(ensure(pipeline, "--gpus=4").out()).isEqualTo(pipeline + "\n");
    assertThat(ensure(pipeline, "--gpus=2").out()).isEqualTo(pipeline + "-world-1\n");
    assertThat(ensure(pipeline, "--gpus=3").code()).isEqualTo(3);
  }

  @Test
  void whatIsRefusedPrintsNoDirectory() throws IOException {
    Files.delete(checkpoint.resolve(MODEL));

    Said said = ensure(checkpoint, "--targetWorldSize=4");

    assertThat(said.code()).isEqualTo(3);
    assertThat(said.out()).isEmpty();
    assertThat(ensure(scratch.resolve("nowhere"), "--targetWorldSize=4").code()).isEqualTo(3);
    assertThat(ensure(checkpoint).code()).isEqualTo(2);
  }
}

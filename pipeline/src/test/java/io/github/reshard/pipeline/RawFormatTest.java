package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.checkpoint.planner.Found;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Reassembly;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** A new format is a reader and a writer: here is one, and the pipeline is what it always is. */
class RawFormatTest {
  private static final long PART_BYTES = 4096;

  @TempDir Path temp;

  private static Found raw(Path directory, String tag) {
    LocalSourceStore store = new LocalSourceStore();
    return new Found(
        store,
        CheckpointFiles.none(directory.toString()),
        directory.toString(),
        new RawFormat.Reader(store, directory.toString(), tag),
        stage -> new RawFormat.Writer(),
        Optional.empty(),
        Optional.empty());
  }

  private static Found zero(GoldenCase golden) throws IOException {
    LocalSourceStore store = new LocalSourceStore();
    return Formats.zero(
        store, CheckpointFiles.discover(store, golden.source().toString(), Optional.empty()));
  }

  private static void write(Found found, int readFor, Path output) throws IOException {
    ReshardPlan plan =
        new RawFormat.Writer().plan(found.reader().read(readFor), new Target(1, PART_BYTES));
    Job job =
        new Job(
            new Source(output.toString(), found, UserHints.NONE),
            plan,
            "raw",
            TargetStore.LATEST,
            Optional.of(output.toString()));
    ReshardOptions options = Resharding.options(output, output, 1);
    TargetStore target = job.target(false, options);
    target.begin();
    ReshardPipeline.move(job, target, "moving bytes", options, Resharding.SILENT, 0);
  }

  /** All files by name, but for what the program adds beside them. */
  private static Map<String, List<Byte>> files(Path directory) throws IOException {
    Map<String, List<Byte>> files = new TreeMap<>();
    try (Stream<Path> all = Files.list(directory)) {
      for (Path file : all.toList()) {
        if (!file.endsWith(CheckpointFiles.MANIFEST)) {
          byte[] bytes = Files.readAllBytes(file);
          List<Byte> boxed = new ArrayList<>();
          for (byte one : bytes) {
            boxed.add(one);
          }
          files.put(file.getFileName().toString(), boxed);
        }
      }
    }
    return files;
  }

  @ParameterizedTest
  @ValueSource(strings = {"z2-adagrad", "z3-bf16-subgroups"})
  void whatAnyReaderReadsIsWrittenAndReadAgain(String name) throws IOException {
    GoldenCase golden = GoldenCase.of(name);
    Path first = temp.resolve("first");
    Path second = temp.resolve("second");
    write(zero(golden), golden.sourceWorld(), first);
    write(raw(first, golden.tag()), 1, second);

    Map<String, List<Byte>> written = files(first.resolve(golden.tag()));
    assertThat(written).hasSizeGreaterThan(3);
    assertThat(files(second.resolve(golden.tag()))).isEqualTo(written);
    Map<String, byte[]> of = Reassembly.of(golden.source(), golden.tag()).tensors();
    Map<String, String> keys = new TreeMap<>();
    of.keySet().forEach(key -> keys.put(key.substring(key.indexOf('/') + 1), key));
    List<String> lines = Files.readAllLines(first.resolve(golden.tag()).resolve(RawFormat.INDEX));
    assertThat(lines).hasSizeGreaterThan(3);
    for (int n = 0; n < lines.size(); n++) {
      String[] words = lines.get(n).split(" ", -1);
      String key = keys.get(words[0] + "." + words[2]);
      assertThat(Files.readAllBytes(first.resolve(golden.tag()).resolve(n + ".raw")))
          .as(lines.get(n))
          .isEqualTo(of.get(key));
    }
  }

  @Test
  void whatIsNotWholeIsRefused() throws IOException {
    GoldenCase golden = GoldenCase.of("z2-adagrad");
    Path first = temp.resolve("first");
    write(zero(golden), golden.sourceWorld(), first);
    Path file = first.resolve(golden.tag()).resolve("0.raw");
    Files.write(file, new byte[(int) Files.size(file) - 1]);
    assertThatThrownBy(() -> raw(first, golden.tag()).reader().read(1))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("0.raw is not all of");
  }
}

package io.github.reshard.pipeline;

import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.NoTargetStore;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.transforms.CompareTensors;
import io.github.reshard.transforms.Counters;
import io.github.reshard.transforms.JobConfig;
import io.github.reshard.transforms.Manifest;
import io.github.reshard.transforms.Reshard;
import io.github.reshard.transforms.Reshards;
import io.github.reshard.transforms.TensorVerdict;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.WithKeys;
import org.apache.beam.sdk.values.KV;

/**
 * Compares two checkpoints of the same training state, of any world sizes: parameter by parameter,
 * each full tensor element by element, and what all ranks share. Nothing is written but a report in
 * a temporary directory, by which the verdicts come back from the workers.
 */
public final class VerifyPipeline {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final int MOST_NAMED = 10;

  private VerifyPipeline() {}

  /**
   * Compares {@code --input} with {@code --output}.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if one of the two is no sound checkpoint
   */
  public static VerifyReport run(CommandOptions options, ProgressListener progress) {
    long begin = System.nanoTime();
    progress.phase("reading headers", 0);
    try {
      ComparedSides sides = ComparedSides.of(options);
      ComparedSide a = sides.a();
      ComparedSide b = sides.b();
      progress.phase("comparing", 0);
      Path report = reportFile(options);
      Pipeline pipeline = Pipeline.create(options);
      Reshard keptA = keep(a, report.getParent());
      Reshard keptB = keep(b, report.getParent());
      pipeline
          .apply(
              "CompareTensors",
              new CompareTensors(
                  Reshards.of(List.of(keptA, keptB)), keptA.key(), a.plan(), keptB.key(), b.plan()))
          .apply("OneReport", WithKeys.of(""))
          .apply("All", GroupByKey.create())
          .apply("WriteReport", ParDo.of(new WriteReport(report.toString())));
      PipelineResult result = pipeline.run();
      progress.running(result);
      PipelineResult.State state = result.waitUntilFinish();
      keptA.target().abandon();
      keptB.target().abandon();
      if (state != PipelineResult.State.DONE) {
        throw new IllegalStateException("the pipeline ended as " + state);
      }
      List<TensorVerdict> verdicts = read(report);
      verdicts.sort(
          Comparator.comparing((TensorVerdict v) -> v.parameter().mpRank())
              .thenComparing(v -> v.parameter().name())
              .thenComparing(TensorVerdict::state));
      List<String> notes = new ArrayList<>();
      List<String> values = new ArrayList<>(sides.differences());
      notes.addAll(sides.notes());
      compare("", a.facts().modelValues(), b.facts().modelValues(), values, notes);
      compare(
          "optimizer: ", a.facts().optimizerValues(), b.facts().optimizerValues(), values, notes);
      if (a.source().isBare() == b.source().isBare()) {
        compareModules(a.facts().moduleTensors(), b.facts().moduleTensors(), values, notes);
      } else {
        notes.add(
            "shards that were saved one by one hold no buffers and no frozen parameters; not"
                + " compared");
      }
      // What had to be taken on trust was so on both sides.
      addNotes("--input", a, notes);
      addNotes("--output", b, notes);
      List<String> manifests = new ArrayList<>();
      check("--input", a, verdicts, true, manifests, notes);
      check("--output", b, verdicts, false, manifests, notes);
      return new VerifyReport(
          a.plan().checkpoint(),
          b.plan().checkpoint(),
          ranks(a),
          ranks(b),
          verdicts,
          values,
          manifests,
          notes,
          ReshardPipeline.counter(result, Counters.BYTES_READ),
          (System.nanoTime() - begin) / 1e9);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** The ranks that saved it, or none for one of another trainer. */
  private static int ranks(ComparedSide side) {
    return side.plan().savedRanks();
  }

  /** Puts the plan where the report goes, which every worker sees. */
  private static Reshard keep(ComparedSide side, Path directory) throws IOException {
    return Reshard.keep(
        ReshardPipeline.newKey(),
        side.plan(),
        side.source().store(),
        new NoTargetStore(directory.toString()),
        new JobConfig(false, JobConfig.AS_SAVED, 0));
  }

  /** On a cluster every worker has to see {@code --tempLocation}; here any directory will do. */
  private static Path reportFile(CommandOptions options) throws IOException {
    Path directory =
        options.getTempLocation() == null
            ? Files.createTempDirectory("reshard-verify")
            : Files.createTempDirectory(Path.of(options.getTempLocation()), "reshard-verify");
    return directory.resolve("verdicts.json");
  }

  private static List<TensorVerdict> read(Path report) throws IOException {
    List<TensorVerdict> verdicts = new ArrayList<>();
    if (Files.exists(report)) {
      verdicts.addAll(JSON.readValue(report.toFile(), new TypeReference<List<TensorVerdict>>() {}));
      Files.delete(report);
    }
    Files.delete(report.getParent());
    return verdicts;
  }

  private static final class WriteReport extends DoFn<KV<String, Iterable<TensorVerdict>>, Void> {
    private static final long serialVersionUID = 1L;
    private final String path;

    WriteReport(String path) {
      this.path = path;
    }

    @ProcessElement
    public void process(@Element KV<String, Iterable<TensorVerdict>> verdicts) throws IOException {
      List<TensorVerdict> all = new ArrayList<>();
      verdicts.getValue().forEach(all::add);
      JSON.writeValue(Path.of(path).toFile(), all);
    }
  }

  /** A tensor that is in one module alone is a difference; none comes or goes by resharding. */
  private static void compareModules(
      SortedMap<String, String> a,
      SortedMap<String, String> b,
      List<String> differences,
      List<String> notes) {
    SortedMap<String, String> ofBoth = new TreeMap<>(a);
    ofBoth.keySet().retainAll(b.keySet());
    SortedMap<String, String> inB = new TreeMap<>(b);
    inB.keySet().retainAll(a.keySet());
    compare("module: ", ofBoth, inB, differences, notes);
    a.keySet().stream()
        .filter(name -> !b.containsKey(name))
        .forEach(name -> differences.add("module: only --input has " + name));
    b.keySet().stream()
        .filter(name -> !a.containsKey(name))
        .forEach(name -> differences.add("module: only --output has " + name));
  }

  private static void compare(
      String what,
      SortedMap<String, String> a,
      SortedMap<String, String> b,
      List<String> differences,
      List<String> notes) {
    List<String> onlyOne = new ArrayList<>();
    a.forEach(
        (key, value) -> {
          if (!b.containsKey(key)) {
            onlyOne.add(key);
          } else if (!b.get(key).equals(value)) {
            differences.add(
                "%s%s is %s in --input and %s in --output".formatted(what, key, value, b.get(key)));
          } else if (CheckpointFacts.isUnread(value)) {
            notes.add("%s%s is %s; not compared".formatted(what, key, value));
          }
        });
    b.keySet().stream().filter(key -> !a.containsKey(key)).forEach(onlyOne::add);
    if (!onlyOne.isEmpty()) {
      notes.add(
          "%sonly one of the two has %s%s; not compared"
              .formatted(
                  what,
                  String.join(", ", onlyOne.subList(0, Math.min(MOST_NAMED, onlyOne.size()))),
                  onlyOne.size() > MOST_NAMED
                      ? " and %d more".formatted(onlyOne.size() - MOST_NAMED)
                      : ""));
    }
  }

  private static void addNotes(String side, ComparedSide checkpoint, List<String> notes) {
    if (checkpoint.source().isBare()) {
      checkpoint.plan().notes().forEach(note -> notes.add(side + ": " + note));
    }
  }

  private static void check(
      String side,
      ComparedSide checkpoint,
      List<TensorVerdict> verdicts,
      boolean first,
      List<String> differences,
      List<String> notes)
      throws IOException {
    SourceStore store = checkpoint.source().store();
    Optional<FileStat> found =
        store.list(checkpoint.source().tagDirectory()).files().stream()
            .filter(file -> file.name().equals(CheckpointFiles.MANIFEST))
            .findFirst();
    if (found.isEmpty()) {
      return;
    }
    byte[] content = store.read(found.get(), 0, found.get().bytes()).array();
    Manifest manifest = Manifest.read(content, found.get().path());
    int checked = 0;
    for (TensorVerdict verdict : verdicts) {
      Manifest.Digest said =
          manifest.digests().get(Manifest.key(verdict.parameter(), verdict.state()));
      if (said != null && verdict.problem().isEmpty() && said.bytes() == verdict.bytes()) {
        checked++;
        int read = first ? verdict.crcA() : verdict.crcB();
        if (read != said.crc32()) {
          differences.add(
              "%s: state '%s' of parameter %s has the CRC-32 %08x, its manifest says %08x"
                  .formatted(side, verdict.state(), verdict.parameter(), read, said.crc32()));
        }
      }
    }
    notes.add("%s: %d digests of its manifest were checked".formatted(side, checked));
  }
}

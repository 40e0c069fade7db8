package io.github.reshard.pipeline;

import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.FrozenWeights;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.Target;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.planner.TargetDegrees;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.NoTargetStore;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.template.Comparison;
import io.github.reshard.pipeline.storage.Stores;
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

  private VerifyPipeline() {}

  private record Side(Source source, CheckpointFacts facts, TrainingState state, ReshardPlan plan) {
    static Side of(Source source, CommandOptions options) throws IOException {
      CheckpointFacts facts = CheckpointFacts.readWhole(source.store(), source.files());
      Target target = new Target(source.dataParallelRanks(), options.getPartBytes());
      TrainingState state = source.found().reader().read(target.worldSize());
      return new Side(
          source,
          facts,
          state,
          source.found().writer().apply(ZeroStage.AS_SAVED).plan(state, target));
    }

    /** The same parameters, joined of the model-parallel ranks that have them. */
    Side joined(CommandOptions options) throws IOException {
      ModelParallelism saved = facts.parallelism();
      boolean cut =
          saved.tensorDegree() != 1
              || facts.modelValues().keySet().stream().anyMatch(OfDegrees::isInfo);
      boolean stages = saved.pipelineDegree() > 1;
      if (source.isBare() || (!cut && !stages)) {
        return this;
      }
      try {
        return new Side(
            source,
            OfDegrees.without(facts),
            state,
            source.plan(
                source.dataParallelRanks(),
                ZeroStage.AS_SAVED,
                TargetDegrees.joined(cut, stages),
                options.getPartBytes()));
      } catch (RefusedException e) {
        throw new RefusedException(
            plan.checkpoint(),
            "the two are of different grids, and what model-parallel ranks of this one have cannot"
                + " be joined to be compared: "
                + e.getMessage(),
            e);
      }
    }

    /** With the frozen parameters that only {@code other} partitions, to be compared with them. */
    Side besides(Side other) throws IOException {
      List<String> frozen = FrozenWeights.names(other.plan);
      if (!FrozenWeights.names(plan).isEmpty() || frozen.isEmpty()) {
        return this;
      }
      ReshardPlan added = FrozenWeights.added(plan, other.plan, source.store(), source.files());
      SortedMap<String, String> rest = new TreeMap<>(facts.moduleTensors());
      rest.keySet().removeAll(frozen);
      return new Side(source, facts.withModuleTensors(rest), state, added);
    }
  }

  /**
   * Compares {@code --input} with {@code --output}.
   *
   * @throws io.github.reshard.checkpoint.RefusedException if one of the two is no sound checkpoint
   */
  public static VerifyReport run(CommandOptions options, ProgressListener progress) {
    long begin = System.nanoTime();
    progress.phase("reading headers", 0);
    try {
      Sides sides = sides(options);
      Side a = sides.a();
      Side b = sides.b();
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

  /**
   * Both sides.
   *
   * @param differences what is known to differ before tensors are compared
   * @param notes what could not be compared
   */
  private record Sides(Side a, Side b, List<String> differences, List<String> notes) {}

  private static Sides sides(CommandOptions options) throws IOException {
    Optional<Source> foreignA = Source.foreign(options.getInput(), options.getTag(), options);
    Optional<Source> foreignB =
        Source.foreign(options.getOutput(), options.getOutputTag(), options);
    if (foreignA.isPresent() && foreignB.isPresent()) {
      throw new RefusedException(
          options.getInput(),
          "this is %s, and --output is %s. One of the two has to be a checkpoint of DeepSpeed, whose names say what is what."
              .formatted(what(foreignA.get()), what(foreignB.get())));
    }
    if ((foreignA.isPresent() || foreignB.isPresent())
        && Stores.isLocal(options.getInput()) != Stores.isLocal(options.getOutput())) {
      Source foreign = foreignA.or(() -> foreignB).orElseThrow();
      throw new RefusedException(
          options.getInput(),
          "one is local and the other one is not, and %s is read with the store of the other side. Copy one of the two."
              .formatted(what(foreign)));
    }
    if (foreignA.isPresent()) {
      Side b = Side.of(Source.find(options.getOutput(), options.getOutputTag(), options), options);
      return besides(foreignA.get(), b, true);
    }
    if (foreignB.isPresent()) {
      Side a = Side.of(Source.find(options.getInput(), options.getTag(), options), options);
      return besides(foreignB.get(), a, false);
    }
    Source first = Source.find(options.getInput(), options.getTag(), options);
    Source second = Source.find(options.getOutput(), options.getOutputTag(), options);
    Source.requireShards(options, first, second);
    Side input = Side.of(first, options);
    Side output = Side.of(second, options);
    ModelParallelism one = input.facts().parallelism();
    ModelParallelism other = output.facts().parallelism();
    List<String> notes = new ArrayList<>();
    if (one.modelRanks() != other.modelRanks()
        || one.pipelineDegree() != other.pipelineDegree()
        || one.tensorDegree() != other.tensorDegree()) {
      input = input.joined(options);
      output = output.joined(options);
      notes.add(
          "the two are of different grids, %s and %s: parameters were joined of their ranks; buffers in the files of layers were not compared"
              .formatted(
                  one.grid(first.dataParallelRanks()), other.grid(second.dataParallelRanks())));
    }
    return new Sides(input.besides(output), output.besides(input), List.of(), notes);
  }

  private static String what(Source foreign) {
    return foreign.found().foreign().orElseThrow().what();
  }

  /**
   * A checkpoint of another trainer and one of DeepSpeed, whose shared values are compared here.
   */
  private static Sides besides(Source foreign, Side zero, boolean first) throws IOException {
    if (zero.source().isBare()) {
      throw new RefusedException(
          zero.source().location(),
          "shards that were saved one by one are not compared with %s.".formatted(what(foreign)));
    }
    Comparison compared =
        foreign
            .found()
            .foreign()
            .orElseThrow()
            .compare(zero.state(), zero.plan(), zero.source().files());
    Side other = new Side(foreign, zero.facts(), zero.state(), compared.plan());
    return first
        ? new Sides(other, zero, compared.differences(), compared.notes())
        : new Sides(zero, other, compared.differences(), compared.notes());
  }

  /** The ranks that saved it, or none for one of another trainer. */
  private static int ranks(Side side) {
    return side.plan().savedRanks();
  }

  /** Puts the plan where the report goes, which every worker sees. */
  private static Reshard keep(Side side, Path directory) throws IOException {
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
          "%sonly one of the two has %s; not compared".formatted(what, String.join(", ", onlyOne)));
    }
  }

  private static void addNotes(String side, Side checkpoint, List<String> notes) {
    if (checkpoint.source().isBare()) {
      checkpoint.plan().notes().forEach(note -> notes.add(side + ": " + note));
    }
  }

  private static void check(
      String side,
      Side checkpoint,
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

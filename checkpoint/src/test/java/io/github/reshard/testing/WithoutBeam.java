package io.github.reshard.testing;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.copy.SliceCopier;
import io.github.reshard.checkpoint.copy.SliceCrc;
import io.github.reshard.checkpoint.dcp.DcpDialect;
import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.ExportRequest;
import io.github.reshard.checkpoint.openstate.OpenStateSource;
import io.github.reshard.checkpoint.plan.ParameterTensor;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.planner.Formats;
import io.github.reshard.checkpoint.planner.Request;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.checkpoint.planner.TargetDegrees;
import io.github.reshard.checkpoint.shards.UserShards;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.storage.LocalShardsStore;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.LocalTargetStore;
import io.github.reshard.checkpoint.storage.PositionalFile;
import io.github.reshard.checkpoint.storage.Publishing;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.checkpoint.torch.ByteSegment;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.universal.UniversalSource;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;

/**
 * The main job as one loop: the same plan, the same slices, the same copies as in the graph, but in
 * one thread and without a runner, so that hundreds of world sizes take seconds. That the graph
 * does the same is what {@code SameBytesTest} of the module pipeline shows.
 */
public final class WithoutBeam {
  private static final long PART_BYTES = 64L << 20;

  private final SourceStore source;
  private final ReshardPlan plan;
  private final TargetStore target;
  private final Map<Integer, RangedFile> open = new HashMap<>();
  private final SliceCopier copier = new SliceCopier();
  private final List<List<SliceCopy>> pending = new ArrayList<>();
  private final List<List<List<SliceCrc>>> written = new ArrayList<>();

  private WithoutBeam(SourceStore source, ReshardPlan plan, Path output) throws IOException {
    this.source = source;
    this.plan = plan;
    target =
        plan.tag().isEmpty()
            ? new LocalShardsStore(output.toString(), Set.of(), "*", false)
            : new LocalTargetStore(
                output.toString(),
                plan.tag(),
                plan.targetWorldSize() == ReshardPlan.ANY_WORLD_SIZE
                    ? TargetStore.LATEST_UNIVERSAL
                    : TargetStore.LATEST,
                Publishing.of(false));
    for (TargetFile file : plan.targets()) {
      List<List<SliceCrc>> entries = new ArrayList<>();
      file.entries().forEach(entry -> entries.add(new ArrayList<>()));
      written.add(entries);
      pending.add(new ArrayList<>());
    }
  }

  /** Reshards {@code input} into {@code output}; what was planned. */
  public static ReshardPlan reshard(Path input, Path output, int worldSize) {
    return reshard(input, output, worldSize, ZeroStage.AS_SAVED);
  }

  /** Reshards {@code input} into {@code output} for another ZeRO stage; what was planned. */
  public static ReshardPlan reshard(Path input, Path output, int worldSize, int stage) {
    return reshard(input, output, worldSize, stage, TargetDegrees.AS_SAVED);
  }

  private static Request request(String format, Optional<String> dialect, OptionalInt files) {
    return new Request(format, OptionalInt.empty(), ZeroStage.AS_SAVED, dialect, files, PART_BYTES);
  }

  /** Makes a Universal Checkpoint of {@code input}; what was planned. */
  public static ReshardPlan toUniversal(Path input, Path output) {
    return toUniversal(input, output, request("universal", Optional.empty(), OptionalInt.empty()));
  }

  /** The same for a run of that stage and, if they are said, that many ranks. */
  public static ReshardPlan toUniversal(Path input, Path output, int stage, OptionalInt ranks) {
    return toUniversal(
        input,
        output,
        new Request("universal", ranks, stage, Optional.empty(), OptionalInt.empty(), PART_BYTES));
  }

  private static ReshardPlan toUniversal(Path input, Path output, Request request) {
    return run(
        source ->
            Formats.plan(
                    Formats.zero(
                        source,
                        CheckpointFiles.discover(source, input.toString(), Optional.empty())),
                    1,
                    request)
                .plan(),
        output);
  }

  /** Makes files of DeepSpeed of a Universal Checkpoint; what was planned. */
  public static ReshardPlan fromUniversal(Path input, Path output, int worldSize, int stage) {
    return fromUniversal(input, output, worldSize, stage, TargetDegrees.AS_SAVED);
  }

  /** The same for other degrees of parallelism. */
  public static ReshardPlan fromUniversal(
      Path input, Path output, int worldSize, int stage, TargetDegrees degrees) {
    try {
      LocalSourceStore below = new LocalSourceStore();
      // The converter of DeepSpeed writes no pointer where it was not asked to.
      Path pointer = input.resolve(TargetStore.LATEST_UNIVERSAL);
      String tag = Files.exists(pointer) ? Files.readString(pointer) : Scratch.TAG + "_universal";
      UniversalSource source =
          UniversalSource.of(
              below, CheckpointFiles.discover(below, input.toString(), Optional.of(tag)));
      return run(
          source.store(),
          ReshardPlanner.plan(Formats.universal(source), worldSize, stage, degrees, PART_BYTES),
          output);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Reshards shards that a user saved; what was planned. */
  public static ReshardPlan reshardShards(Path input, Path output, int worldSize, UserHints hints) {
    return reshardShards(input, output, worldSize, Optional.empty(), hints);
  }

  /** The same of shards whose names are said; what was planned. */
  public static ReshardPlan reshardShards(
      Path input, Path output, int worldSize, Optional<String> pattern, UserHints hints) {
    return run(
        source -> {
          UserShards shards = UserShards.find(source, input.toString(), pattern).orElseThrow();
          return Formats.shards(source, shards, hints)
              .plan(worldSize, ZeroStage.AS_SAVED, PART_BYTES);
        },
        output);
  }

  /** Makes a distributed checkpoint of {@code input}; what was planned. */
  public static ReshardPlan toDcp(Path input, Path output, DcpDialect dialect, int files) {
    return run(
        source -> {
          CheckpointFiles found =
              CheckpointFiles.discover(source, input.toString(), Optional.empty());
          int ranks = Math.max(1, CheckpointFacts.read(source, found).dataParallelRanks());
          return Formats.plan(
                  Formats.zero(source, found),
                  ranks,
                  request("dcp", Optional.of(dialect.optionName()), OptionalInt.of(files)))
              .plan();
        },
        output);
  }

  /** Makes files of DeepSpeed of a distributed checkpoint and a template; what was planned. */
  public static ReshardPlan fromDcp(
      Path dcp, Path template, Path output, int worldSize, int stage) {
    return run(
        source ->
            Formats.filled(
                    dcp.toString(),
                    Formats.zero(
                        source,
                        CheckpointFiles.discover(source, template.toString(), Optional.empty())))
                .plan(worldSize, stage, PART_BYTES),
        output);
  }

  /** Exports {@code input} with its optimizer; what was planned. */
  public static ReshardPlan toOpenState(Path input, Path output) {
    return export(input, output, Optional.empty());
  }

  /** The same with the weights as {@code dtype}; what was planned. */
  public static ReshardPlan export(Path input, Path output, Optional<DType> dtype) {
    return run(
        source -> {
          CheckpointFiles files =
              CheckpointFiles.discover(source, input.toString(), Optional.empty());
          int ranks = CheckpointFacts.read(source, files).dataParallelRanks();
          return Formats.export(
              Formats.zero(source, files),
              ranks,
              new ExportRequest(
                  dtype,
                  ExportRequest.DEFAULT_SHARD_BYTES,
                  Optional.empty(),
                  Optional.empty(),
                  true,
                  PART_BYTES));
        },
        output);
  }

  /** Makes files of DeepSpeed of an open training state; what was planned. */
  public static ReshardPlan fromOpenState(Path input, Path output, int worldSize, int stage) {
    return fromOpenState(input, output, worldSize, stage, TargetDegrees.AS_SAVED);
  }

  /** The same for other degrees of parallelism. */
  public static ReshardPlan fromOpenState(
      Path input, Path output, int worldSize, int stage, TargetDegrees degrees) {
    try {
      OpenStateSource open =
          OpenStateSource.find(new LocalSourceStore(), input.toString()).orElseThrow();
      return run(
          open.store(),
          ReshardPlanner.plan(Formats.openState(open), worldSize, stage, degrees, PART_BYTES),
          output);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Reshards {@code input} to other degrees of parallelism; what was planned. */
  public static ReshardPlan reshard(Path input, Path output, int worldSize, TargetDegrees degrees) {
    return reshard(input, output, worldSize, ZeroStage.AS_SAVED, degrees);
  }

  /** The same for another ZeRO stage as well. */
  public static ReshardPlan reshard(
      Path input, Path output, int worldSize, int stage, TargetDegrees degrees) {
    return run(
        source ->
            ReshardPlanner.plan(
                source,
                CheckpointFiles.discover(source, input.toString(), Optional.empty()),
                worldSize,
                stage,
                degrees,
                PART_BYTES),
        output);
  }

  public interface Planning {
    ReshardPlan plan(LocalSourceStore source) throws IOException;
  }

  /** Does what {@code planning} plans; what that was. */
  public static ReshardPlan run(Planning planning, Path output) {
    LocalSourceStore source = new LocalSourceStore();
    try {
      return run(source, planning.plan(source), output);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static ReshardPlan run(SourceStore source, ReshardPlan plan, Path output)
      throws IOException {
    WithoutBeam job = new WithoutBeam(source, plan, output);
    try {
      job.run();
    } finally {
      job.close();
    }
    return plan;
  }

  private void run() throws IOException {
    target.begin();
    plan.carried().forEach(this::copy);
    for (int m = 0; m < plan.models().size(); m++) {
      for (int rank = 0; rank < plan.models().get(m).target().worldSize(); rank++) {
        Repartition.targetPadding(plan, m, rank, this::copy);
      }
      moveParameters(plan.models().get(m));
    }
    for (int f = 0; f < plan.targets().size(); f++) {
      write(f);
    }
    close();
    for (int f = 0; f < plan.targets().size(); f++) {
      finish(f);
    }
    target.publish(
        plan.targets().stream().map(TargetFile::path).toList(),
        (plan.tag().isEmpty() ? "" : plan.tag() + "/") + CheckpointFiles.MANIFEST,
        new byte[0]);
  }

  private void close() throws IOException {
    for (RangedFile file : open.values()) {
      file.close();
    }
    open.clear();
  }

  private void moveParameters(PartitionedModel model) {
    List<List<RankSlice>> slices = new ArrayList<>();
    for (int p = 0; p < model.parameters().size(); p++) {
      slices.add(new ArrayList<>());
      slices.get(p).addAll(Repartition.moduleSlices(model, p));
    }
    for (int rank = 0; rank < model.source().worldSize(); rank++) {
      Repartition.slicesOfRank(model, rank, (slice, p) -> slices.get(p).add(slice));
    }
    for (int p = 0; p < model.parameters().size(); p++) {
      ParameterTensor tensor =
          Repartition.assemble(model, p, model.id(plan.checkpoint(), p), slices.get(p));
      Repartition.copies(model, p, tensor, this::copy);
    }
  }

  /** Reads a slice that is only held against another. */
  private void compare(SliceCopy slice) {
    try {
      copier.copy(slice, this::open, null);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private void copy(SliceCopy slice) {
    if (slice.target() == null) {
      compare(slice);
      return;
    }
    pending.get(slice.target().file()).add(slice);
  }

  /** Copies all slices of a target file at once: rows are woven together. */
  private void write(int index) throws IOException {
    pending.get(index).sort(Comparator.comparingLong(slice -> slice.target().offset()));
    try (PositionalFile sink = target.open(plan.targets().get(index).path())) {
      copier.copy(
          pending.get(index),
          this::open,
          sink,
          (slice, sums) -> written.get(index).get(slice.target().entry()).add(sums.target()));
    }
  }

  private RangedFile open(int file) throws IOException {
    if (!open.containsKey(file)) {
      open.put(file, source.open(plan.sources().get(file).stat()));
    }
    return open.get(file);
  }

  private void finish(int index) throws IOException {
    TargetFile file = plan.targets().get(index);
    List<Integer> crcs = new ArrayList<>();
    for (int e = 0; e < file.entries().size(); e++) {
      TargetFile.Entry entry = file.entries().get(e);
      SliceCrc.Sum sum = SliceCrc.sum(entry.offset(), entry.bytes(), written.get(index).get(e));
      assertThat(sum).as(file.path() + " " + entry.key()).isInstanceOf(SliceCrc.Sum.Whole.class);
      crcs.add(((SliceCrc.Sum.Whole) sum).crc32());
    }
    try (PositionalFile sink = target.open(file.path())) {
      for (ByteSegment segment :
          plan.targets().get(index).recipe().skeleton(plan, source, index, crcs)) {
        sink.write(segment.offset(), ByteBuffer.wrap(segment.bytes()));
      }
    }
    target.finish(file.path(), file.bytes(), false);
  }
}

package io.github.reshard.transforms;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowable;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.LocalTargetStore;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.function.Predicate;
import java.util.stream.Stream;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.coders.SerializableCoder;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.testing.PAssert;
import org.apache.beam.sdk.transforms.Create;
import org.apache.beam.sdk.transforms.View;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionTuple;
import org.apache.beam.sdk.values.PCollectionView;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Each step on a real checkpoint, with the DirectRunner's checks of coders and mutations on. */
class ReshardStepsTest {
  private static final int SOURCE_RANKS = 4;
  private static final int TARGET_RANKS = 3;
  private static final long PART_BYTES = 1024;

  private final SourceStore source = new LocalSourceStore();
  private ReshardPlan plan;
  @TempDir Path directory;

  @BeforeEach
  void plan() throws IOException {
    Path checkpoint =
        Path.of(System.getProperty("reshard.testdata"), "corpus", "z2-fp32-twogroups", "source");
    CheckpointFiles files =
        CheckpointFiles.discover(source, checkpoint.toString(), Optional.empty());
    plan = ReshardPlanner.plan(source, files, TARGET_RANKS, PART_BYTES);
  }

  private PCollectionView<ReshardPlan> view(Pipeline pipeline) {
    return pipeline
        .apply("Plan", Create.of(plan).withCoder(SerializableCoder.of(ReshardPlan.class)))
        .apply("PlanView", View.asSingleton());
  }

  private static Pipeline pipeline() {
    return Pipeline.create(PipelineOptionsFactory.create());
  }

  private PCollection<KV<PartId, SliceCopy>> slices(
      Pipeline pipeline, PCollectionView<ReshardPlan> view, Predicate<ShardId> read) {
    List<ShardId> shards = ShardId.allOf(plan);
    shards.removeIf(read.negate());
    return pipeline.apply(Slices.of(plan, view).ofShards(shards));
  }

  @Test
  void everyByteOfEveryTargetEntryIsWrittenByOneSlice() {
    Pipeline pipeline = pipeline();
    ReshardPlan expected = plan;
    PAssert.that(slices(pipeline, view(pipeline), shard -> true))
        .satisfies(
            slices -> {
              Map<Integer, TreeMap<Long, Long>> written = new TreeMap<>();
              for (KV<PartId, SliceCopy> slice : slices) {
                if (!slice.getKey().source()) {
                  SliceCopy copy = slice.getValue();
                  Long other =
                      written
                          .computeIfAbsent(copy.target().file(), f -> new TreeMap<>())
                          .put(copy.target().offset(), copy.bytes());
                  assertThat(other).as("another slice at the same byte").isNull();
                  assertThat(copy.target().offset() / PART_BYTES).isEqualTo(slice.getKey().part());
                }
              }
              for (int file = 0; file < expected.targets().size(); file++) {
                for (TargetFile.Entry entry : expected.targets().get(file).entries()) {
                  long at = entry.offset();
                  while (at < entry.offset() + entry.bytes()) {
                    assertThat(written.get(file)).containsKey(at);
                    at += written.get(file).get(at);
                  }
                  assertThat(at).isEqualTo(entry.offset() + entry.bytes());
                }
              }
              return null;
            });
    pipeline.run().waitUntilFinish();
  }

  @Test
  void aRankThatIsNotReadIsMissedByName() {
    Pipeline pipeline = pipeline();
    slices(pipeline, view(pipeline), shard -> shard.rank() != 2);

    Throwable failure = catchThrowable(() -> pipeline.run().waitUntilFinish());

    assertThat(failure).hasRootCauseInstanceOf(RefusedException.class);
    assertThat(failure)
        .rootCause()
        .hasMessageContaining("parameter ")
        .hasMessageContaining("mp rank 0")
        .hasMessageContaining("or one is missing");
  }

  @Test
  void writingAndFinishingTwiceGivesTheSameFiles() throws IOException {
    TargetStore once =
        new LocalTargetStore(directory.resolve("once").toString(), plan.tag(), false);
    TargetStore twice =
        new LocalTargetStore(directory.resolve("twice").toString(), plan.tag(), false);
    once.begin();
    twice.begin();
    run(once, 1);
    run(twice, 2);

    assertThat(content("twice")).isEqualTo(content("once")).hasSize(TARGET_RANKS + 2);
  }

  /** Writes all parts {@code times} times, one after the other, and then publishes. */
  private void run(TargetStore target, int times) {
    for (int time = 1; time <= times; time++) {
      Pipeline pipeline = pipeline();
      PCollectionView<ReshardPlan> view = view(pipeline);
      PCollectionTuple written =
          slices(pipeline, view, shard -> true).apply(new WriteParts(view, source, target, false));
      if (time == times) {
        written.apply(new ProveAndPublish(view, plan, source, target, new JobConfig(false, 0)));
      }
      pipeline.run().waitUntilFinish();
    }
  }

  /** All published files but the manifest, which tells the time. */
  private Map<String, Integer> content(String output) throws IOException {
    Map<String, Integer> content = new TreeMap<>();
    Path root = directory.resolve(output);
    try (Stream<Path> files = Files.walk(root)) {
      for (Path file : files.filter(Files::isRegularFile).toList()) {
        if (!file.endsWith("reshard-manifest.json")) {
          content.put(root.relativize(file).toString(), Arrays.hashCode(Files.readAllBytes(file)));
        }
      }
    }
    return content;
  }

  @Test
  void everyParameterOfThePlanIsRead() {
    PartitionedModel model = plan.models().get(0);
    Pipeline pipeline = pipeline();
    List<ShardId> shards = ShardId.allOf(plan);
    shards.remove(new ShardId(0, RankSlice.WHOLE));
    int parameters = model.parameters().size();
    PAssert.that(pipeline.apply(new ReadShards(view(pipeline), shards)))
        .satisfies(
            slices -> {
              Map<String, Long> elements = new TreeMap<>();
              slices.forEach(
                  slice ->
                      elements.merge(
                          slice.getKey().name(), slice.getValue().elements(), Long::sum));
              assertThat(elements).hasSize(parameters);
              return null;
            });
    pipeline.run().waitUntilFinish();
  }
}

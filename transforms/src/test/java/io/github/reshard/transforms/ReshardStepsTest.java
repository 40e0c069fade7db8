package io.github.reshard.transforms;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowable;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.RankSlice;
import io.github.reshard.checkpoint.plan.Repartition;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.LocalTargetStore;
import io.github.reshard.checkpoint.storage.NoTargetStore;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.TreeMap;
import java.util.UUID;
import java.util.function.Predicate;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.testing.PAssert;
import org.apache.beam.sdk.testing.TestStream;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionTuple;
import org.joda.time.Duration;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Each step on a real checkpoint, with the DirectRunner's checks of coders and mutations on. */
class ReshardStepsTest {
  private static final int TARGET_RANKS = 3;
  private static final long PART_BYTES = 1024;

  private final SourceStore source = new LocalSourceStore();
  private ReshardPlan plan;
  private String key;
  @TempDir Path directory;

  @BeforeEach
  void plan() throws IOException {
    plan = planned(PART_BYTES);
  }

  private ReshardPlan planned(long partBytes) throws IOException {
    Path checkpoint =
        Path.of(System.getProperty("reshard.testdata"), "corpus", "z2-fp32-twogroups", "source");
    CheckpointFiles files =
        CheckpointFiles.discover(source, checkpoint.toString(), Optional.empty());
    return ReshardPlanner.plan(source, files, TARGET_RANKS, partBytes);
  }

  private static Pipeline pipeline() {
    return Pipeline.create(PipelineOptionsFactory.create());
  }

  /** The plan, kept in {@code target}. */
  private Reshards reshards(TargetStore target) throws IOException {
    return Reshards.of(
        List.of(
            Reshard.keep(
                newKey(), plan, source, target, new JobConfig(false, JobConfig.AS_SAVED, 0))));
  }

  /** No two tests have the same. */
  private String newKey() {
    key = UUID.randomUUID().toString();
    return key;
  }

  private PCollection<Keyed<PlanItem>> items(Pipeline pipeline, Predicate<PlanItem> wanted) {
    List<Keyed<PlanItem>> items = new ArrayList<>();
    for (PlanItem item : PlanItem.allOf(plan)) {
      if (wanted.test(item)) {
        items.add(new Keyed<>(key, item));
      }
    }
    return pipeline.apply(PlanItems.of(items));
  }

  private PCollection<KV<Keyed<PartId>, SliceCopy>> slices(
      Pipeline pipeline, Predicate<PlanItem> read) throws IOException {
    Reshards reshards = reshards(new NoTargetStore());
    return items(pipeline, read).apply(Slices.of(reshards));
  }

  @Test
  void everyByteOfEveryTargetEntryIsWrittenByOneSlice() throws IOException {
    Pipeline pipeline = pipeline();
    ReshardPlan expected = plan;
    PAssert.that(slices(pipeline, item -> true))
        .satisfies(
            slices -> {
              Map<Integer, TreeMap<Long, Long>> written = new TreeMap<>();
              for (KV<Keyed<PartId>, SliceCopy> slice : slices) {
                if (!slice.getKey().item().source()) {
                  SliceCopy copy = slice.getValue();
                  Long other =
                      written
                          .computeIfAbsent(copy.target().file(), f -> new TreeMap<>())
                          .put(copy.target().offset(), copy.bytes());
                  assertThat(other).as("another slice at the same byte").isNull();
                  assertThat(copy.target().offset() / PART_BYTES)
                      .isEqualTo(slice.getKey().item().part());
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
  void aRankThatIsNotReadIsMissedByName() throws IOException {
    Pipeline pipeline = pipeline();
    slices(pipeline, item -> item.kind() != PlanItem.Kind.SOURCE_SHARD || item.number() != 2);

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
  private void run(TargetStore target, int times) throws IOException {
    Reshards reshards = reshards(target);
    for (int time = 1; time <= times; time++) {
      Pipeline pipeline = pipeline();
      PCollection<Keyed<PlanItem>> items = items(pipeline, item -> true);
      PCollectionTuple written = items.apply(Slices.of(reshards)).apply(new WriteParts(reshards));
      if (time == times) {
        written.apply(new ProveAndPublish(reshards, items));
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
  void everyParameterOfThePlanIsRead() throws IOException {
    PartitionedModel model = plan.models().get(0);
    Pipeline pipeline = pipeline();
    Reshards reshards = reshards(new NoTargetStore());
    int parameters = model.parameters().size();
    PAssert.that(
            items(pipeline, item -> item.number() != RankSlice.WHOLE)
                .apply(new ReadShards(reshards)))
        .satisfies(
            slices -> {
              Map<String, Long> elements = new TreeMap<>();
              slices.forEach(
                  slice ->
                      elements.merge(
                          slice.getKey().item().name(), slice.getValue().elements(), Long::sum));
              assertThat(elements).hasSize(parameters);
              return null;
            });
    pipeline.run().waitUntilFinish();
  }

  /** On a stream groups close when they are whole, long before anything ends. */
  @Test
  void anUnboundedGraphPublishesTheSameFilesAsSoonAsTheyAreWhole() throws IOException {
    TargetStore bounded =
        new LocalTargetStore(directory.resolve("bounded").toString(), plan.tag(), false);
    bounded.begin();
    run(bounded, 1);
    TargetStore target =
        new LocalTargetStore(directory.resolve("stream").toString(), plan.tag(), false);
    target.begin();
    Reshards reshards = reshards(target);
    List<Keyed<PlanItem>> all = new ArrayList<>();
    PlanItem.allOf(plan).forEach(item -> all.add(new Keyed<>(key, item)));
    Collections.shuffle(all, new Random(7));
    TestStream.Builder<Keyed<PlanItem>> stream = TestStream.create(Keyed.coder(Coders.PLAN_ITEM));
    for (Keyed<PlanItem> item : all) {
      stream = stream.addElements(item);
    }
    // The watermark never moves before all of it has been published.
    stream = stream.advanceProcessingTime(Duration.standardHours(1));
    Pipeline pipeline = pipeline();
    PCollection<Keyed<PlanItem>> items = pipeline.apply(stream.advanceWatermarkToInfinity());
    PAssert.that(
            items
                .apply(Slices.of(reshards))
                .apply(new WriteParts(reshards))
                .apply(new ProveAndPublish(reshards, items)))
        .satisfies(
            paths -> {
              assertThat(paths).hasSize(TARGET_RANKS + 2);
              return null;
            });
    pipeline.run().waitUntilFinish();

    assertThat(content("stream")).isEqualTo(content("bounded"));
  }

  /** By this a group on a stream is known to be whole. */
  @ParameterizedTest
  @ValueSource(
      strings = {"z1-bf16", "z2-roundrobin", "z3-bf16-subgroups", "pp2-z1", "tp2-z1", "moe-z2-ep2"})
  void thePlanKnowsHowManySlicesThereAre(String name) throws IOException {
    Path checkpoint = Path.of(System.getProperty("reshard.testdata"), "corpus", name, "source");
    ReshardPlan of =
        ReshardPlanner.plan(
            source,
            CheckpointFiles.discover(source, checkpoint.toString(), Optional.empty()),
            2,
            PART_BYTES);
    for (PartitionedModel model : of.models()) {
      int[] slices = new int[model.parameters().size()];
      for (int p = 0; p < slices.length; p++) {
        slices[p] = Repartition.moduleSlices(model, p).size();
      }
      for (int rank = 0; rank < model.source().worldSize(); rank++) {
        Repartition.slicesOfRank(model, rank, (slice, p) -> slices[p]++);
      }
      for (int p = 0; p < slices.length; p++) {
        assertThat(Repartition.slices(model, p)).as(name + " " + p).isEqualTo(slices[p]);
      }
    }
  }

  /** Small neighbours share a key, a file that is longer than a part does not. */
  @Test
  void everyFileHasOneKeyAndNoKeyHasMoreThanAPart() throws IOException {
    for (long partBytes : new long[] {1, PART_BYTES, 1 << 20}) {
      ReshardPlan of = planned(partBytes);
      PlanIndex index = PlanIndex.of(of);
      List<Integer> targets = new ArrayList<>();
      for (int file = 0; file < of.targets().size(); file++) {
        if (index.targetKey(file) == file) {
          List<Integer> together = index.targetsOf(file);
          assertThat(together.stream().mapToLong(f -> of.targets().get(f).bytes()).sum())
              .isLessThanOrEqualTo(Math.max(partBytes, of.targets().get(file).bytes()));
          targets.addAll(together);
        }
      }
      assertThat(targets).isEqualTo(IntStream.range(0, of.targets().size()).boxed().toList());
      List<Integer> sources = new ArrayList<>();
      for (int file = 0; file < of.sources().size(); file++) {
        if (index.sourceKey(file) == file) {
          sources.addAll(index.sourcesOf(file));
        }
      }
      assertThat(sources).isEqualTo(IntStream.range(0, of.sources().size()).boxed().toList());
      PartId second = new PartId(false, 1, 1);
      assertThat(index.keyOf(second)).isEqualTo(second);
    }
    assertThat(PlanIndex.of(planned(1 << 20)).targetsOf(0)).hasSizeGreaterThan(1);
  }
}

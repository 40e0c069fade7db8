package io.github.reshard.pipeline;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.plan.PartId;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SliceCopy;
import io.github.reshard.checkpoint.planner.ReshardPlanner;
import io.github.reshard.checkpoint.storage.LocalSourceStore;
import io.github.reshard.checkpoint.storage.LocalTargetStore;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.testing.Scratch;
import io.github.reshard.transforms.Counters;
import io.github.reshard.transforms.JobConfig;
import io.github.reshard.transforms.Keyed;
import io.github.reshard.transforms.PlanItem;
import io.github.reshard.transforms.PlanItems;
import io.github.reshard.transforms.ProveAndPublish;
import io.github.reshard.transforms.Reshard;
import io.github.reshard.transforms.Reshards;
import io.github.reshard.transforms.Slices;
import io.github.reshard.transforms.WriteParts;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.junit.jupiter.api.RepeatedTest;
import org.junit.jupiter.api.RepetitionInfo;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * Everything that writes is in the graph three times over, as when a runner takes a slow worker for
 * a dead one: parts, finishing and publishing are done again, in another order and at once.
 */
@Timeout(120)
class RepeatedBundlesTest {
  private static final int TIMES = 3;

  @TempDir Path scratch;

  @RepeatedTest(3)
  void theOutputIsThatOfOneExecution(RepetitionInfo repetition) throws IOException {
    Path want = scratch.resolve("want");
    ReshardOptions options = Resharding.options(Scratch.source(), want, 4);
    options.setPartBytes(2048);
    Resharding.run(options);

    Path output = scratch.resolve("output");
    boolean late = runManyTimesAtOnce(output, new Random(repetition.getCurrentRepetition()));

    Map<String, String> written = Scratch.contents(output);
    written.keySet().removeIf(name -> name.startsWith(".reshard-"));
    assertThat(written).isEqualTo(Scratch.contents(want));
    System.out.printf(
        "repeated bundles: every part, file and tag written %d times at once, identical output%s%n",
        TIMES, late ? " (a late one was turned away)" : "");
  }

  private static Pipeline job(Path output, Reshard reshard, ReshardPlan plan) {
    Pipeline pipeline = Pipeline.create(Resharding.options(Scratch.source(), output, 4));
    Reshards reshards = Reshards.of(List.of(reshard));
    List<Keyed<PlanItem>> listed = new ArrayList<>();
    PlanItem.allOf(plan).forEach(item -> listed.add(new Keyed<>(reshard.key(), item)));
    ReshardPipeline.apply(pipeline.apply("Plan", PlanItems.of(listed)), reshards);
    return pipeline;
  }

  /** As Flink starts a batch job again when a worker dies between publishing and its end. */
  @Test
  void aJobThatIsStartedAgainAfterItPublishedFindsThatAndNoOtherOne() throws IOException {
    Path output = scratch.resolve("output");
    SourceStore source = new LocalSourceStore();
    CheckpointFiles files =
        CheckpointFiles.discover(source, Scratch.source().toString(), Optional.empty());
    ReshardPlan plan = ReshardPlanner.plan(source, files, 4, 2048);
    TargetStore target = new LocalTargetStore(output.toString(), plan.tag(), false);
    target.begin();
    JobConfig config = new JobConfig(false, JobConfig.AS_SAVED, 0, "this one", true);
    Reshard reshard = Reshard.keep("again", plan, source, target, config);
    job(output, reshard, plan).run().waitUntilFinish();
    Map<String, String> published = Scratch.contents(output);

    PipelineResult again = job(output, reshard, plan).run();
    again.waitUntilFinish();
    assertThat(ReshardPipeline.counter(again, Counters.of(reshard, Counters.PUBLISHED_BEFORE)))
        .isPositive();
    assertThat(Scratch.contents(output)).isEqualTo(published);

    JobConfig other = new JobConfig(false, JobConfig.AS_SAVED, 0, "another one", true);
    Reshard replaced =
        new Reshard("other", source, target, other, reshard.planDigest(), reshard.manifest());
    assertThatThrownBy(() -> job(output, replaced, plan).run().waitUntilFinish())
        .satisfies(e -> assertThat(Resharding.find(e, OutputException.class)).isPresent())
        .hasStackTraceContaining("is gone, or this machine does not see it");
  }

  /** Whether a repetition came after publishing and was refused. */
  private static boolean runManyTimesAtOnce(Path output, Random random) throws IOException {
    SourceStore source = new LocalSourceStore();
    CheckpointFiles files =
        CheckpointFiles.discover(source, Scratch.source().toString(), Optional.empty());
    ReshardPlan plan = ReshardPlanner.plan(source, files, 4, 2048);
    TargetStore target = new LocalTargetStore(output.toString(), plan.tag(), false);
    target.begin();
    Pipeline pipeline = Pipeline.create(Resharding.options(Scratch.source(), output, 4));
    Reshard reshard =
        Reshard.keep("r", plan, source, target, new JobConfig(false, JobConfig.AS_SAVED, 0));
    Reshards reshards = Reshards.of(List.of(reshard));
    List<Keyed<PlanItem>> listed = new ArrayList<>();
    PlanItem.allOf(plan).forEach(item -> listed.add(new Keyed<>(reshard.key(), item)));
    Collections.shuffle(listed, random);
    PCollection<Keyed<PlanItem>> items = pipeline.apply("Plan", PlanItems.of(listed));
    PCollection<KV<Keyed<PartId>, SliceCopy>> slices = items.apply("Slices", Slices.of(reshards));
    for (int time = 0; time < TIMES; time++) {
      slices
          .apply("WriteParts" + time, new WriteParts(reshards))
          .apply("ProveAndPublish" + time, new ProveAndPublish(reshards, items));
    }
    try {
      pipeline.run().waitUntilFinish();
      return false;
    } catch (RuntimeException e) {
      if (Resharding.find(e, OutputException.class).isPresent()) {
        return true;
      }
      throw e;
    }
  }
}

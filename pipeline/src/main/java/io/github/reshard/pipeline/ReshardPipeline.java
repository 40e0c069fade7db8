package io.github.reshard.pipeline;

import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.PipelineResult;
import org.apache.beam.sdk.transforms.Count;
import org.apache.beam.sdk.transforms.Create;

/** The main job: one checkpoint from N ranks to M ranks. */
public final class ReshardPipeline {
  private ReshardPipeline() {}

  /** Runs the job to its end, whatever the runner, and returns what it did. */
  public static ReshardReport run(ReshardOptions options, ProgressListener progress) {
    progress.phase("starting", 0);
    Pipeline pipeline = Pipeline.create(options);
    pipeline.apply(Create.of(options.getTargetWorldSize())).apply(Count.perElement());
    PipelineResult result = pipeline.run();
    progress.running(result);
    PipelineResult.State state = result.waitUntilFinish();
    throw new UnsupportedOperationException("the pipeline does nothing yet; it ended as " + state);
  }
}

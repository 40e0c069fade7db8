package io.github.reshard.pipeline;

import java.util.function.Consumer;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.runners.TransformHierarchy;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.reflect.DoFnInvokers;
import org.apache.beam.sdk.transforms.resourcehints.ResourceHints;

/**
 * Beam writes a class for each DoFn when a runner first meets it, some tens of milliseconds each,
 * one after the other. Here that is done on a thread of its own while headers are read, for a graph
 * that no runner gets: what it needs is then there, and nothing else is different.
 */
final class GraphWarmUp {
  private GraphWarmUp() {}

  /**
   * Begins, and does not wait for the end.
   *
   * @param graph builds it
   */
  static void begin(Consumer<Pipeline> graph) {
    Thread thread = new Thread(() -> run(graph), "warm-up");
    thread.setDaemon(true);
    thread.start();
  }

  private static void run(Consumer<Pipeline> graph) {
    // Unlike Pipeline.create it leaves Beam's file systems alone.
    Pipeline pipeline =
        Pipeline.forTransformHierarchy(
            new TransformHierarchy(ResourceHints.create()), PipelineOptionsFactory.create());
    graph.accept(pipeline);
    pipeline.traverseTopologically(
        new Pipeline.PipelineVisitor.Defaults() {
          @Override
          public void visitPrimitiveTransform(TransformHierarchy.Node node) {
            if (node.getTransform() instanceof ParDo.MultiOutput<?, ?> parDo) {
              generate(parDo.getFn());
            }
          }
        });
  }

  private static <InT, OutT> void generate(DoFn<InT, OutT> fn) {
    DoFnInvokers.invokerFor(fn);
  }
}

package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import java.io.IOException;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.StringUtf8Coder;
import org.apache.beam.sdk.metrics.Counter;
import org.apache.beam.sdk.metrics.Metrics;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.Flatten;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.WithKeys;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionList;
import org.apache.beam.sdk.values.PCollectionTuple;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * The commit step: when every source entry is proven and every target file is whole, and only then,
 * the tag is published, with a manifest of what it is. What comes out is the path of each file.
 */
public final class ProveAndPublish extends PTransform<PCollectionTuple, PCollection<String>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> planView;
  private final ReshardPlan plan;
  private final SourceStore source;
  private final TargetStore target;
  private final JobConfig config;

  /**
   * @param planView the plan
   * @param plan the same plan, for the number of things to wait for
   * @param source where templates of the files' pickles are read from
   * @param target what is published
   * @param config how the job was asked for
   */
  public ProveAndPublish(
      PCollectionView<ReshardPlan> planView,
      ReshardPlan plan,
      SourceStore source,
      TargetStore target,
      JobConfig config) {
    this.planView = planView;
    this.plan = plan;
    this.source = source;
    this.target = target;
    this.config = config;
  }

  @Override
  public PCollection<String> expand(PCollectionTuple crcs) {
    PCollection<Outcome> proven =
        crcs.get(WriteParts.READ).apply("ProveSources", new ProveSources(planView));
    PCollection<Outcome> finished =
        crcs.get(WriteParts.WRITTEN)
            .apply("FinishFiles", new FinishFiles(planView, source, target, plan.targets().size()));
    PCollection<Outcome> digests =
        crcs.get(WriteParts.TENSORS).apply("DigestTensors", new DigestTensors(planView));
    return PCollectionList.of(proven)
        .and(finished)
        .and(digests)
        .and(crcs.get(WriteParts.DISAGREEMENTS))
        .apply(Flatten.pCollections())
        .apply("OfCheckpoint", WithKeys.of(plan.checkpoint()))
        .setCoder(KvCoder.of(StringUtf8Coder.of(), Coders.OUTCOME))
        .apply("ByCheckpoint", GroupByKey.create())
        .apply("Publish", ParDo.of(new Publish(planView, target, config)).withSideInputs(planView))
        .setCoder(StringUtf8Coder.of());
  }

  static final class Publish extends DoFn<KV<String, Iterable<Outcome>>, String> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;
    private final TargetStore target;
    private final JobConfig config;
    private final Counter disagreed =
        Metrics.counter(Counters.NAMESPACE, Counters.PARAMETERS_DISAGREED);

    private final Counter leftBehind = Metrics.counter(Counters.NAMESPACE, Counters.LEFT_BEHIND);

    Publish(PCollectionView<ReshardPlan> planView, TargetStore target, JobConfig config) {
      this.planView = planView;
      this.target = target;
      this.config = config;
    }

    @ProcessElement
    public void process(
        @Element KV<String, Iterable<Outcome>> outcomes,
        OutputReceiver<String> out,
        ProcessContext context)
        throws IOException {
      ReshardPlan plan = context.sideInput(planView);
      BitSet unproven = filesWithBytes(plan);
      BitSet unfinished = new BitSet();
      unfinished.set(0, plan.targets().size());
      Map<Integer, List<Integer>> digests = new HashMap<>();
      SortedMap<ParamId, Long> disagreements = new TreeMap<>(BY_NAME);
      for (Outcome outcome : outcomes.getValue()) {
        if (outcome instanceof Outcome.Proven proven) {
          unproven.clear(proven.file());
        } else if (outcome instanceof Outcome.Finished finished) {
          unfinished.clear(finished.file());
        } else if (outcome instanceof Outcome.Digests found) {
          digests.put(found.key(), found.crc32s());
        } else if (outcome instanceof Outcome.Disagreement found) {
          disagreements.merge(found.parameter(), found.element(), Math::min);
        }
      }
      if (!unproven.isEmpty() || !unfinished.isEmpty()) {
        throw new IllegalStateException(
            "%d files of the target and %d of the source are not accounted for; nothing was published"
                .formatted(unfinished.cardinality(), unproven.cardinality()));
      }
      disagreed.inc(disagreements.size());
      List<String> paths = new ArrayList<>();
      plan.targets().forEach(file -> paths.add(file.path()));
      String manifest = Manifest.path(plan.tag());
      paths.add(manifest);
      double seconds = (System.currentTimeMillis() - config.startMillis()) / 1e3;
      byte[] content =
          Manifest.json(plan, config, DigestTensors.inOrder(plan, digests), disagreements, seconds);
      if (!target.publish(paths, manifest, content)) {
        leftBehind.inc();
      }
      paths.forEach(out::output);
    }

    private static final Comparator<ParamId> BY_NAME =
        Comparator.comparingInt(ParamId::mpRank)
            .thenComparingInt(ParamId::expertRank)
            .thenComparing(ParamId::name);

    private static BitSet filesWithBytes(ReshardPlan plan) {
      BitSet files = new BitSet();
      for (int s = 0; s < plan.sources().size(); s++) {
        files.set(s, plan.sources().get(s).entries().stream().anyMatch(entry -> entry.bytes() > 0));
      }
      return files;
    }
  }
}

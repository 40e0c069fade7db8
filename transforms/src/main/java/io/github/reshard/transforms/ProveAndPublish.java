package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.state.ParamId;
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
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.Flatten;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionList;
import org.apache.beam.sdk.values.PCollectionTuple;

/**
 * The commit step: when every source entry is proven and every target file is whole, and only then,
 * the tag is published, with a manifest of what it is. What comes out is the path of each file.
 */
public final class ProveAndPublish extends PTransform<PCollectionTuple, PCollection<String>> {
  private static final long serialVersionUID = 1L;

  private final Reshards reshards;
  private final PCollection<Keyed<PlanItem>> items;

  /**
   * @param reshards what is published
   * @param items what their plans list
   */
  public ProveAndPublish(Reshards reshards, PCollection<Keyed<PlanItem>> items) {
    this.reshards = reshards;
    this.items = items;
  }

  @Override
  public PCollection<String> expand(PCollectionTuple crcs) {
    PCollection<Keyed<Outcome>> proven =
        crcs.get(WriteParts.READ).apply("ProveSources", new ProveSources(reshards));
    PCollection<Keyed<Outcome>> finished =
        crcs.get(WriteParts.WRITTEN).apply("FinishFiles", new FinishFiles(reshards, items));
    PCollection<Keyed<Outcome>> digests =
        crcs.get(WriteParts.TENSORS).apply("DigestTensors", new DigestTensors(reshards));
    return PCollectionList.of(proven)
        .and(finished)
        .and(digests)
        .apply(Flatten.pCollections())
        .apply("OfCheckpoint", ParDo.of(new OfCheckpoint()))
        .setCoder(KvCoder.of(Keyed.coder(VarIntCoder.of()), Coders.OUTCOME))
        .apply("ByCheckpoint", new Gather<>(reshards, new AllOutcomes()))
        .apply("Publish", ParDo.of(new Publish(reshards)))
        .setCoder(StringUtf8Coder.of());
  }

  /** All outcomes of a reshard have one key. */
  private static final class OfCheckpoint
      extends DoFn<Keyed<Outcome>, KV<Keyed<Integer>, Outcome>> {
    private static final long serialVersionUID = 1L;

    @ProcessElement
    public void process(
        @Element Keyed<Outcome> outcome, OutputReceiver<KV<Keyed<Integer>, Outcome>> out) {
      out.output(KV.of(new Keyed<>(outcome.reshard(), 0), outcome.item()));
    }
  }

  private static final class AllOutcomes implements Gather.Measure<Integer, Outcome> {
    private static final long serialVersionUID = 1L;

    @Override
    public long expected(PlannedReshard planned, Integer key) {
      return (long) filesWithBytes(planned.plan()).cardinality()
          + planned.plan().targets().size()
          + DigestTensors.keysWithBytes(planned);
    }

    @Override
    public long count(Outcome outcome) {
      return 1;
    }
  }

  private static BitSet filesWithBytes(ReshardPlan plan) {
    BitSet files = new BitSet();
    for (int s = 0; s < plan.sources().size(); s++) {
      files.set(s, plan.sources().get(s).entries().stream().anyMatch(entry -> entry.bytes() > 0));
    }
    return files;
  }

  static final class Publish extends DoFn<KV<Keyed<Integer>, Iterable<Outcome>>, String> {
    private static final long serialVersionUID = 1L;
    private static final Comparator<ParamId> BY_NAME =
        Comparator.comparingInt(ParamId::mpRank).thenComparing(ParamId::name);

    private final PlannedReshard.Finder finder;

    Publish(Reshards reshards) {
      this.finder = new PlannedReshard.Finder(reshards);
    }

    @ProcessElement
    public void process(
        @Element KV<Keyed<Integer>, Iterable<Outcome>> outcomes, OutputReceiver<String> out)
        throws IOException {
      finder.run(
          outcomes.getKey().reshard(),
          planned -> {
            List<String> paths = publish(planned, outcomes.getValue());
            finder.reshards().published(planned.reshard());
            PlannedReshard.forget(planned.reshard().key());
            paths.forEach(out::output);
          });
    }

    private List<String> publish(PlannedReshard planned, Iterable<Outcome> outcomes)
        throws IOException {
      ReshardPlan plan = planned.plan();
      BitSet unproven = filesWithBytes(plan);
      BitSet unfinished = new BitSet();
      unfinished.set(0, plan.targets().size());
      Map<Integer, List<Integer>> digests = new HashMap<>();
      SortedMap<ParamId, Long> disagreements = new TreeMap<>(BY_NAME);
      for (Outcome outcome : outcomes) {
        if (outcome instanceof Outcome.Proven proven) {
          unproven.clear(proven.file());
        } else if (outcome instanceof Outcome.Finished finished) {
          unfinished.clear(finished.file());
        } else if (outcome instanceof Outcome.Digests found) {
          digests.put(found.key(), found.crc32s());
          for (Outcome.Mismatch mismatch : found.mismatches()) {
            disagreements.put(planned.index().id(mismatch.parameter()), mismatch.element());
          }
        }
      }
      if (!unproven.isEmpty() || !unfinished.isEmpty()) {
        throw new IllegalStateException(
            "%d files of the target and %d of the source are not accounted for; nothing was published"
                .formatted(unfinished.cardinality(), unproven.cardinality()));
      }
      requireUnchanged(planned);
      Counters.inc(planned.reshard(), Counters.PARAMETERS_DISAGREED, disagreements.size());
      List<String> paths = new ArrayList<>();
      plan.targets().forEach(file -> paths.add(file.path()));
      String manifest = Manifest.path(plan.tag());
      paths.add(manifest);
      JobConfig config = planned.reshard().config();
      double seconds = (System.currentTimeMillis() - config.startMillis()) / 1e3;
      byte[] content =
          Manifest.json(
              plan, config, DigestTensors.inOrder(planned, digests), disagreements, seconds);
      if (!planned.reshard().target().publish(paths, manifest, content)) {
        Counters.inc(planned.reshard(), Counters.LEFT_BEHIND, 1);
      }
      return paths;
    }

    /** What was read in the course of minutes must be of one moment. */
    private static void requireUnchanged(PlannedReshard planned) throws IOException {
      for (SourceFile file : planned.plan().sources()) {
        planned.reshard().source().requireUnchanged(file.stat());
      }
    }
  }
}

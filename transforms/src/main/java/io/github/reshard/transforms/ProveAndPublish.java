package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.SourceFile;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.HashSet;
import java.util.Set;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.StringUtf8Coder;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.Flatten;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionList;
import org.apache.beam.sdk.values.PCollectionTuple;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * The commit step: when every source entry is proven and every target file is whole, and only then,
 * the tag is published. What comes out is the path of each file.
 */
public final class ProveAndPublish extends PTransform<PCollectionTuple, PCollection<String>> {
  private static final long serialVersionUID = 1L;

  private final PCollectionView<ReshardPlan> planView;
  private final ReshardPlan plan;
  private final SourceStore source;
  private final TargetStore target;

  /**
   * @param planView the plan
   * @param plan the same plan, for the number of things to wait for
   * @param source where templates of the files' pickles are read from
   * @param target what is published
   */
  public ProveAndPublish(
      PCollectionView<ReshardPlan> planView,
      ReshardPlan plan,
      SourceStore source,
      TargetStore target) {
    this.planView = planView;
    this.plan = plan;
    this.source = source;
    this.target = target;
  }

  @Override
  public PCollection<String> expand(PCollectionTuple crcs) {
    KvCoder<String, EntryId> coder = KvCoder.of(StringUtf8Coder.of(), Coders.ENTRY_ID);
    String checkpoint = plan.checkpoint();
    PCollection<KV<String, EntryId>> proven =
        crcs.get(WriteParts.READ)
            .apply("ProveSources", new ProveSources(planView))
            .apply("Proven", ParDo.of(new Proven(checkpoint)))
            .setCoder(coder);
    PCollection<KV<String, EntryId>> finished =
        crcs.get(WriteParts.WRITTEN)
            .apply("FinishFiles", new FinishFiles(planView, source, target, plan.targets().size()))
            .apply("Finished", ParDo.of(new Finished(checkpoint)))
            .setCoder(coder);
    return PCollectionList.of(proven)
        .and(finished)
        .apply(Flatten.pCollections())
        .apply("ByCheckpoint", GroupByKey.create())
        .apply("Publish", ParDo.of(new Publish(planView, target)).withSideInputs(planView))
        .setCoder(StringUtf8Coder.of());
  }

  /** In place of an entry: the file as a whole is finished. */
  private static final int FILE = -1;

  private static final class Proven extends DoFn<EntryId, KV<String, EntryId>> {
    private static final long serialVersionUID = 1L;
    private final String checkpoint;

    Proven(String checkpoint) {
      this.checkpoint = checkpoint;
    }

    @ProcessElement
    public void process(@Element EntryId entry, OutputReceiver<KV<String, EntryId>> out) {
      out.output(KV.of(checkpoint, entry));
    }
  }

  private static final class Finished extends DoFn<Integer, KV<String, EntryId>> {
    private static final long serialVersionUID = 1L;
    private final String checkpoint;

    Finished(String checkpoint) {
      this.checkpoint = checkpoint;
    }

    @ProcessElement
    public void process(@Element Integer file, OutputReceiver<KV<String, EntryId>> out) {
      out.output(KV.of(checkpoint, new EntryId(file, FILE)));
    }
  }

  private static final class Publish extends DoFn<KV<String, Iterable<EntryId>>, String> {
    private static final long serialVersionUID = 1L;
    private final PCollectionView<ReshardPlan> planView;
    private final TargetStore target;

    Publish(PCollectionView<ReshardPlan> planView, TargetStore target) {
      this.planView = planView;
      this.target = target;
    }

    @ProcessElement
    public void process(
        @Element KV<String, Iterable<EntryId>> done,
        OutputReceiver<String> out,
        ProcessContext context)
        throws IOException {
      ReshardPlan plan = context.sideInput(planView);
      Set<EntryId> missing = new HashSet<>();
      for (int f = 0; f < plan.targets().size(); f++) {
        missing.add(new EntryId(f, FILE));
      }
      for (int s = 0; s < plan.sources().size(); s++) {
        SourceFile file = plan.sources().get(s);
        for (int e = 0; e < file.entries().size(); e++) {
          TorchFile.Entry entry = file.entries().get(e);
          if (entry.bytes() > 0) {
            missing.add(new EntryId(s, e));
          }
        }
      }
      done.getValue().forEach(missing::remove);
      if (!missing.isEmpty()) {
        throw new IllegalStateException(
            "%d files or entries are not accounted for, among them %s; nothing was published"
                .formatted(missing.size(), missing.iterator().next()));
      }
      target.publish(plan.targets().stream().map(TargetFile::path).toList());
      plan.targets().forEach(file -> out.output(file.path()));
    }
  }
}

package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCrc;
import java.util.ArrayList;
import java.util.List;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;

/**
 * Puts the checksums of slices together in the order of the full tensor: a digest that does not
 * depend on how many ranks held it.
 */
final class DigestTensors
    extends PTransform<PCollection<KV<TensorId, SliceCrc>>, PCollection<Outcome>> {
  private static final long serialVersionUID = 1L;

  @Override
  public PCollection<Outcome> expand(PCollection<KV<TensorId, SliceCrc>> runs) {
    return runs.apply("ByTensor", GroupByKey.create())
        .apply("DigestTensor", ParDo.of(new DigestTensor()))
        .setCoder(Coders.OUTCOME);
  }

  private static final class DigestTensor extends DoFn<KV<TensorId, Iterable<SliceCrc>>, Outcome> {
    private static final long serialVersionUID = 1L;

    @ProcessElement
    public void process(
        @Element KV<TensorId, Iterable<SliceCrc>> runs, OutputReceiver<Outcome> out) {
      List<SliceCrc> all = new ArrayList<>();
      runs.getValue().forEach(all::add);
      long bytes = all.stream().mapToLong(SliceCrc::bytes).sum();
      SliceCrc.Sum sum = SliceCrc.sum(0, bytes, all);
      if (sum instanceof SliceCrc.Sum.Broken broken) {
        throw new IllegalStateException(
            "state '%s' of parameter %s: expected the next slice at byte %d of the full tensor, found it at %d; the plan is wrong"
                .formatted(
                    runs.getKey().state(),
                    runs.getKey().parameter(),
                    broken.expected(),
                    broken.found()));
      }
      out.output(new Outcome.Digest(runs.getKey(), bytes, ((SliceCrc.Sum.Whole) sum).crc32()));
    }
  }
}

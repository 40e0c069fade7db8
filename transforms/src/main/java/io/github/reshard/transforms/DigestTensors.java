package io.github.reshard.transforms;

import io.github.reshard.checkpoint.copy.SliceCrc;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
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
    extends PTransform<PCollection<KV<Integer, KV<TensorId, SliceCrc>>>, PCollection<Outcome>> {
  private static final long serialVersionUID = 1L;

  @Override
  public PCollection<Outcome> expand(PCollection<KV<Integer, KV<TensorId, SliceCrc>>> runs) {
    return runs.apply("ByParameter", GroupByKey.create())
        .apply("DigestTensor", ParDo.of(new DigestTensor()))
        .setCoder(Coders.OUTCOME);
  }

  private static final class DigestTensor
      extends DoFn<KV<Integer, Iterable<KV<TensorId, SliceCrc>>>, Outcome> {
    private static final long serialVersionUID = 1L;

    @ProcessElement
    public void process(
        @Element KV<Integer, Iterable<KV<TensorId, SliceCrc>>> runs, OutputReceiver<Outcome> out) {
      Map<TensorId, List<SliceCrc>> byTensor = new LinkedHashMap<>();
      for (KV<TensorId, SliceCrc> run : runs.getValue()) {
        byTensor.computeIfAbsent(run.getKey(), id -> new ArrayList<>()).add(run.getValue());
      }
      byTensor.forEach((id, all) -> out.output(digest(id, all)));
    }

    private static Outcome digest(TensorId id, List<SliceCrc> runs) {
      long bytes = runs.stream().mapToLong(SliceCrc::bytes).sum();
      SliceCrc.Sum sum = SliceCrc.sum(0, bytes, runs);
      if (sum instanceof SliceCrc.Sum.Broken broken) {
        throw new IllegalStateException(
            "state '%s' of parameter %s: expected the next slice at byte %d of the full tensor, found it at %d; the plan is wrong"
                .formatted(id.state(), id.parameter(), broken.expected(), broken.found()));
      }
      return new Outcome.Digest(id, bytes, ((SliceCrc.Sum.Whole) sum).crc32());
    }
  }
}

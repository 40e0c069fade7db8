package io.github.reshard.transforms;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.TargetStore;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.Impulse;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.View;
import org.apache.beam.sdk.values.PBegin;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * The plan, kept beside the unpublished files and read from there: a job graph, of which Dataflow
 * takes 10 MB, then has the same size whatever the number of parameters. The graph has a digest of
 * it, so that nothing else is ever taken for it.
 */
public final class KeptPlan extends PTransform<PBegin, PCollectionView<ReshardPlan>> {
  private static final long serialVersionUID = 1L;

  private final Read read;

  private KeptPlan(Read read) {
    this.read = read;
  }

  /** Writes {@code plan} into {@code target}, which has begun. */
  public static KeptPlan of(ReshardPlan plan, TargetStore target) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    PlanCoder.of().encode(plan, bytes);
    target.keep(bytes.toByteArray());
    return new KeptPlan(new Read(target, digest(bytes.toByteArray())));
  }

  @Override
  public PCollectionView<ReshardPlan> expand(PBegin begin) {
    return begin
        .apply("Once", Impulse.create())
        .apply("ReadPlan", ParDo.of(read))
        .setCoder(PlanCoder.of())
        .apply("View", View.asSingleton());
  }

  private static byte[] digest(byte[] bytes) {
    try {
      return MessageDigest.getInstance("SHA-256").digest(bytes);
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every Java has SHA-256", e);
    }
  }

  private static final class Read extends DoFn<byte[], ReshardPlan> {
    private static final long serialVersionUID = 1L;
    private final TargetStore target;
    private final byte[] digest;

    Read(TargetStore target, byte[] digest) {
      this.target = target;
      this.digest = digest;
    }

    @ProcessElement
    public void process(OutputReceiver<ReshardPlan> out) throws IOException {
      byte[] bytes = target.kept();
      if (!Arrays.equals(digest(bytes), digest)) {
        throw new OutputException(
            "--output",
            "the plan that was kept there is not the one that this job wrote. Something else writes to it; run again.");
      }
      out.output(PlanCoder.of().decode(new ByteArrayInputStream(bytes)));
    }
  }
}

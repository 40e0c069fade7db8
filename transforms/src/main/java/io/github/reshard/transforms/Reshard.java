package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.storage.TargetStore;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.Serializable;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.Optional;

/**
 * One checkpoint on its way to one number of ranks. Its plan is kept beside the unpublished files
 * and read from there: a job graph, of which Dataflow takes 10 MB, then has the same size whatever
 * the number of parameters.
 *
 * @param key what its elements are found by; no other reshard has it
 * @param source where the checkpoint is read from
 * @param target where it is written to
 * @param config how it was asked for
 * @param planDigest the SHA-256 of the kept plan, so that nothing else is ever taken for it; empty
 *     if the key alone has to do
 * @param manifest where the target will have its manifest
 */
public record Reshard(
    String key,
    SourceStore source,
    TargetStore target,
    JobConfig config,
    String planDigest,
    String manifest)
    implements Serializable {
  /** Keeps {@code plan} in {@code target}, which has begun. */
  public static Reshard keep(
      String key, ReshardPlan plan, SourceStore source, TargetStore target, JobConfig config)
      throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    PlanCoder.of().encode(plan, bytes);
    target.keep(bytes.toByteArray());
    PlansHere.add(key, plan);
    return new Reshard(
        key, source, target, config, digest(bytes.toByteArray()), Manifest.path(plan.tag()));
  }

  /** Whether this very reshard stands in the target, which says so last. */
  boolean isPublished() throws IOException {
    if (config.run().isEmpty()) {
      return false;
    }
    Optional<byte[]> published = target.published(manifest);
    return published.isPresent() && config.run().equals(Manifest.run(published.get()));
  }

  static String digest(byte[] bytes) {
    try {
      return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every Java has SHA-256", e);
    }
  }
}

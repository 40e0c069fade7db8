package io.github.reshard.transforms;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.IOException;
import java.io.Serializable;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * The reshards that a graph works on, each found by the key that its elements carry, and what
 * becomes of one that fails.
 */
public interface Reshards extends Serializable {
  /** The reshard of {@code key}; empty if it is over, and what is left of it may be dropped. */
  Optional<Reshard> find(String key) throws IOException;

  /**
   * Hears that a reshard is refused. Returns if that is something to go on from: the reshard is
   * over then.
   *
   * @throws RefusedException {@code refused}, if it ends the job
   */
  default void refused(Reshard reshard, ReshardPlan plan, RefusedException refused)
      throws IOException {
    throw refused;
  }

  /**
   * Hears that the output failed.
   *
   * @param tries how many times the same step has failed by now
   * @return whether to try again; if not, the reshard is over
   * @throws OutputException {@code failure}, if it ends the job
   */
  default boolean failed(Reshard reshard, int tries, OutputException failure) throws IOException {
    throw failure;
  }

  /**
   * Hears that reading failed in a way of which nobody can say whose fault it is.
   *
   * @param tries how many times the same step has failed by now
   * @return whether to try again; if not, the reshard is over
   * @throws IOException {@code failure}, if it ends the job
   */
  default boolean broken(Reshard reshard, ReshardPlan plan, int tries, IOException failure)
      throws IOException {
    throw failure;
  }

  /** Hears that a reshard is published, maybe more than once. */
  default void published(Reshard reshard) throws IOException {}

  /** Whether nothing more comes of the reshard {@code key} now that {@code later} is under way. */
  default boolean isPast(String key, String later) {
    return false;
  }

  /** These, the first failure of one of which ends the job. */
  static Reshards of(List<Reshard> reshards) {
    return new Listed(reshards);
  }

  /** Known when the graph is built. */
  final class Listed implements Reshards {
    private static final long serialVersionUID = 1L;
    private final Map<String, Reshard> byKey = new LinkedHashMap<>();

    private Listed(List<Reshard> reshards) {
      reshards.forEach(reshard -> byKey.put(reshard.key(), reshard));
    }

    @Override
    public Optional<Reshard> find(String key) {
      Reshard found = byKey.get(key);
      if (found == null) {
        throw new IllegalArgumentException("the graph has no reshard " + key);
      }
      return Optional.of(found);
    }
  }
}

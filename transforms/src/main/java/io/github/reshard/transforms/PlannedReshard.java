package io.github.reshard.transforms;

import io.github.reshard.checkpoint.OutputException;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.Serializable;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * A reshard with its plan, as a worker has it in memory.
 *
 * @param reshard the reshard
 * @param plan its plan
 * @param index finds parameters in the plan
 */
record PlannedReshard(Reshard reshard, ReshardPlan plan, PlanIndex index) {
  /**
   * A worker meets few at a time: those of one checkpoint, or of two while one follows the other.
   */
  private static final int MOST_KEPT = 16;

  private static final Map<String, PlannedReshard> KEPT =
      new LinkedHashMap<>(MOST_KEPT, 0.75f, true) {
        private static final long serialVersionUID = 1L;

        @Override
        protected boolean removeEldestEntry(Map.Entry<String, PlannedReshard> eldest) {
          return size() > MOST_KEPT;
        }
      };

  /** Keys of reshards that were found published; there are few, of workers that died. */
  private static final Set<String> PUBLISHED = new HashSet<>();

  /** Reads plans one at a time: all threads of a worker want the same one first. */
  private static final Object READING = new Object();

  /** Something that is done for an element of a reshard. */
  interface Work {
    /** Does it. Whatever it puts out it does so last, since it is done again if it fails before. */
    void run(PlannedReshard planned) throws IOException;
  }

  /** What a step of the graph finds reshards by. */
  static final class Finder implements Serializable {
    private static final long serialVersionUID = 1L;
    private final Reshards reshards;
    private transient PlannedReshard last;

    Finder(Reshards reshards) {
      this.reshards = reshards;
    }

    Reshards reshards() {
      return reshards;
    }

    /** The reshard, or null if it is over. */
    PlannedReshard find(String key) throws IOException {
      if (last == null || !last.reshard().key().equals(key)) {
        PlannedReshard found = kept(key);
        if (found == null) {
          synchronized (READING) {
            found = kept(key);
            if (found == null) {
              found = read(key);
            }
          }
        }
        last = found;
      }
      return last;
    }

    private PlannedReshard read(String key) throws IOException {
      Optional<Reshard> reshard = reshards.find(key);
      if (reshard.isEmpty()) {
        return null;
      }
      byte[] bytes = null;
      for (int tries = 1; bytes == null; tries++) {
        try {
          bytes = reshard.get().target().kept();
        } catch (OutputException e) {
          // A worker that published it, and died before the runner knew, took the plan away.
          if (isPublished(reshard.get()) || !reshards.failed(reshard.get(), tries, e)) {
            return null;
          }
        }
      }
      String digest = reshard.get().planDigest();
      if (!digest.isEmpty() && !Reshard.digest(bytes).equals(digest)) {
        throw new OutputException(
            "--output",
            "the plan that was kept there is not the one that this job wrote. Something else writes"
                + " to it; run again.");
      }
      Optional<ReshardPlan> here = PlansHere.find(key);
      ReshardPlan plan =
          here.isPresent() ? here.get() : PlanCoder.of().decode(new ByteArrayInputStream(bytes));
      PlannedReshard planned = new PlannedReshard(reshard.get(), plan, PlanIndex.of(plan));
      synchronized (KEPT) {
        KEPT.put(key, planned);
      }
      return planned;
    }

    private static boolean isPublished(Reshard reshard) throws IOException {
      synchronized (PUBLISHED) {
        if (!PUBLISHED.contains(reshard.key())) {
          if (!reshard.isPublished()) {
            return false;
          }
          PUBLISHED.add(reshard.key());
        }
      }
      Counters.inc(reshard, Counters.PUBLISHED_BEFORE, 1);
      return true;
    }

    /** Does {@code work} for an element of {@code key}, unless that reshard is over. */
    void run(String key, Work work) throws IOException {
      PlannedReshard planned = find(key);
      for (int tries = 1; planned != null; tries++) {
        try {
          work.run(planned);
          return;
        } catch (RefusedException e) {
          reshards.refused(planned.reshard(), planned.plan(), e);
          over(key);
          return;
        } catch (OutputException e) {
          if (!reshards.failed(planned.reshard(), tries, e)) {
            over(key);
            return;
          }
        } catch (IOException e) {
          if (!reshards.broken(planned.reshard(), planned.plan(), tries, e)) {
            over(key);
            return;
          }
        }
      }
    }

    /** What still comes of it is asked for anew, and dropped. */
    private void over(String key) {
      forget(key);
      last = null;
    }
  }

  private static PlannedReshard kept(String key) {
    synchronized (KEPT) {
      return KEPT.get(key);
    }
  }

  /** Forgets a reshard that is published. */
  static void forget(String key) {
    synchronized (KEPT) {
      KEPT.remove(key);
    }
  }
}

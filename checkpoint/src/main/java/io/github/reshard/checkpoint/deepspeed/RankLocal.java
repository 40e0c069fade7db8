package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.IdentityHashMap;
import java.util.Set;
import java.util.regex.Pattern;

/**
 * Single values of an optimizer's state that each rank computes from its own partition, and anew
 * before each use: what is saved of them has no effect on the run that goes on.
 *
 * <p>{@code RMS} of Adafactor (Transformers 4.46, optimization.py: {@code state["RMS"] =
 * self._rms(p_data_fp32)} before {@code _get_lr} reads it) and of CAME and timm's Adafactor, which
 * do the same; {@code weight_norm}, {@code adam_norm} and {@code trust_ratio} of the common LAMB
 * (cybertronai/pytorch-lamb, lamb.py: written in {@code step}, read by nobody but its logger).
 */
public final class RankLocal {
  private static final String BASE = "base_optimizer_state";

  private static final Set<String> KEYS = Set.of("RMS", "weight_norm", "adam_norm", "trust_ratio");

  /** Steps, counters and what a schedule makes of them: these are the same on all ranks. */
  private static final Pattern OF_THE_RUN =
      Pattern.compile(".*(step|lr|scale|scaler|betas|decay|version|stage|overflow|iter)\\b.*");

  private RankLocal() {}

  /** Whether an optimizer's state calls such a value {@code key}. */
  public static boolean isOfOneRank(String key) {
    return KEYS.contains(key);
  }

  /**
   * Why two ranks may disagree.
   *
   * @param difference where and how, as {@code PyEquality} or a tensor's path tells it
   */
  static String reason(String difference) {
    String where =
        difference.contains(":") ? difference.substring(0, difference.indexOf(':')) : difference;
    if (!where.contains(BASE) || OF_THE_RUN.matcher(where).matches()) {
      return "The shards are of different steps or runs.";
    }
    return "Either the shards are of different steps or runs, or the optimizer computes this on"
        + " each rank from its own partition, as Prodigy and D-Adaptation do with d: then"
        + " what other ranks would have cannot be known, and no checkpoint of this optimizer"
        + " can be resharded.";
  }

  /**
   * The nodes of such values, with their names.
   *
   * @param optimizer the optimizer's own {@code state_dict()}
   */
  static IdentityHashMap<PyObject, String> in(PickledValue optimizer) {
    IdentityHashMap<PyObject, String> found = new IdentityHashMap<>();
    for (String key : new String[] {BASE, "optimizer_state_dict"}) {
      optimizer.findPresent(key).ifPresent(base -> addStates(base, found));
    }
    return found;
  }

  private static void addStates(PickledValue base, IdentityHashMap<PyObject, String> found) {
    if (base.isList()) {
      base.items().forEach(state -> addState(state, found));
    } else if (base.isDict()) {
      base.findPresent("state")
          .filter(PickledValue::isDict)
          .ifPresent(states -> states.children().forEach(entry -> addState(entry.value(), found)));
    }
  }

  private static void addState(PickledValue state, IdentityHashMap<PyObject, String> found) {
    if (state.isDict()) {
      for (PickledValue.Entry entry : state.children()) {
        if (KEYS.contains(entry.key()) && isSingle(entry.value())) {
          found.put(entry.value().node(), entry.value().path());
        }
      }
    }
  }

  private static boolean isSingle(PickledValue value) {
    return value.node() instanceof PyFloat
        || value.asTensor().filter(Replicated::isReplicated).isPresent();
  }
}

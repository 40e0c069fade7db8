package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.state.Parameter;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The names of experts' parameters. In optimizer files experts are numbered within a rank, in the
 * files of their weights through all ranks (DeepSpeed 0.19.6, runtime/engine.py, {@code
 * _save_moe_checkpoint}: {@code global = expert-parallel rank * local experts + local}).
 *
 * @param localExperts how many experts a rank has, by the path of their list
 */
public record ExpertNames(Map<String, Integer> localExperts) {
  private static final Pattern NAME =
      Pattern.compile("(.*deepspeed_experts\\.)(\\d{1,9})(\\..+)", Pattern.DOTALL);

  public static ExpertNames of(List<Parameter> parameters) {
    Map<String, Integer> experts = new HashMap<>();
    for (Parameter parameter : parameters) {
      Matcher m = NAME.matcher(parameter.name());
      if (m.matches()) {
        experts.merge(m.group(1), Integer.parseInt(m.group(2)) + 1, Math::max);
      }
    }
    return new ExpertNames(experts);
  }

  /** What {@code local} is called in the files of the experts' weights. */
  public String global(String local, int expertRank) {
    Matcher m = NAME.matcher(local);
    if (!m.matches()) {
      return local;
    }
    int number = expertRank * localExperts.get(m.group(1)) + Integer.parseInt(m.group(2));
    return m.group(1) + number + m.group(3);
  }
}

package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.state.Parameter;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A parameter of an expert.
 *
 * @param mixture which mixture of experts it is of
 * @param expert the expert's number within its rank
 * @param name what it is called within the expert
 * @param parameter the parameter
 */
record ExpertParameter(String mixture, int expert, String name, Parameter parameter) {
  private static final Pattern NAME =
      Pattern.compile("(.*deepspeed_experts\\.)(\\d{1,9})(\\..+)", Pattern.DOTALL);

  static ExpertParameter of(String where, Parameter parameter) {
    Matcher m = NAME.matcher(parameter.name());
    if (!m.matches()) {
      throw new RefusedException(
          where,
          "%s is in a param group of experts, but its name is none of an expert's parameter."
              .formatted(parameter.name()));
    }
    return new ExpertParameter(m.group(1), Integer.parseInt(m.group(2)), m.group(3), parameter);
  }

  Parameter numbered(int other, int group) {
    return new Parameter(mixture + other + name, parameter.shape(), group);
  }
}

package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.RefusedException;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** What tensors are called in an export, whose names in the module are known. */
final class WeightNames {
  /**
   * Parameters of an adapter and the adapter's name (PEFT 0.21, utils/save_and_load.py, {@code
   * get_peft_model_state_dict}, and the {@code adapter_layer_names} of its tuners).
   */
  private static final Pattern ADAPTER =
      Pattern.compile(
          "(.*\\.(?:lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
              + "|hada_w1_a|hada_w1_b|hada_w2_a|hada_w2_b|hada_t1|hada_t2"
              + "|lokr_w1|lokr_w1_a|lokr_w1_b|lokr_w2|lokr_w2_a|lokr_w2_b|lokr_t2"
              + "|ia3_l|oft_R|vera_lambda_b|vera_lambda_d))\\.([^.]+)(\\..+)?",
          Pattern.DOTALL);

  /** A module that is trained as a whole beside an adapter. */
  private static final Pattern SAVED_MODULE =
      Pattern.compile("(.*)\\.modules_to_save\\.([^.]+)\\.(.+)", Pattern.DOTALL);

  private WeightNames() {}

  /** Whether {@code name} is one that {@code patterns} names. */
  static boolean matches(String patterns, String name) {
    return Arrays.stream(patterns.split(","))
        .anyMatch(p -> regex(p.strip()).matcher(name).matches());
  }

  private static Pattern regex(String pattern) {
    return Pattern.compile(
        pattern
            .chars()
            .mapToObj(c -> c == '*' ? ".*" : c == '?' ? "." : Pattern.quote(Character.toString(c)))
            .collect(Collectors.joining()),
        Pattern.DOTALL);
  }

  /** Whether all of these are an adapter's, so that PEFT should load them. */
  static boolean areAdapter(Collection<String> names) {
    return !names.isEmpty()
        && names.stream().anyMatch(name -> ADAPTER.matcher(name).matches())
        && names.stream().allMatch(name -> inAdapter(name).isPresent());
  }

  /**
   * A name in an adapter.
   *
   * @param adapter the adapter's name
   * @param name the name without it, as PEFT saves it
   */
  private record InAdapter(String adapter, String name) {}

  private static Optional<InAdapter> inAdapter(String name) {
    Matcher saved = SAVED_MODULE.matcher(name);
    if (saved.matches()) {
      return Optional.of(new InAdapter(saved.group(2), saved.group(1) + "." + saved.group(3)));
    }
    Matcher m = ADAPTER.matcher(name);
    return m.matches()
        ? Optional.of(
            new InAdapter(m.group(2), m.group(1) + (m.group(3) == null ? "" : m.group(3))))
        : Optional.empty();
  }

  /**
   * The exported name of each of {@code names}.
   *
   * @param where the checkpoint, for messages
   * @param adapter whether they are an adapter's
   * @throws RefusedException if two would have the same name, no name begins with the prefix, or
   *     there are two adapters
   */
  static Map<String, String> of(
      String where, List<String> names, Optional<String> prefix, boolean adapter) {
    Map<String, String> exported = new LinkedHashMap<>();
    Map<String, String> taken = new HashMap<>();
    String adapterName = null;
    for (String name : names) {
      String to = name;
      if (prefix.isPresent() && name.startsWith(prefix.get())) {
        to = name.substring(prefix.get().length());
      }
      Optional<InAdapter> in = adapter ? inAdapter(to) : Optional.empty();
      if (in.isPresent()) {
        if (adapterName != null && !adapterName.equals(in.get().adapter())) {
          throw new RefusedException(
              where,
              "holds the adapters %s and %s, and a file is of one. Choose with --only='*.%s.*'."
                  .formatted(adapterName, in.get().adapter(), in.get().adapter()));
        }
        adapterName = in.get().adapter();
        to = in.get().name();
      }
      String other = taken.put(to, name);
      if (other != null || to.isEmpty()) {
        throw new RefusedException(
            where,
            other == null
                ? "--stripPrefix=%s leaves nothing of the name %s."
                    .formatted(prefix.orElse(""), name)
                : "%s and %s would both be called %s. Choose another --stripPrefix, or one of them with --only."
                    .formatted(other, name, to));
      }
      exported.put(name, to);
    }
    if (prefix.isPresent() && names.stream().noneMatch(name -> name.startsWith(prefix.get()))) {
      throw new RefusedException(
          where,
          "no name begins with --stripPrefix=%s; they are such as %s."
              .formatted(
                  prefix.get(), String.join(", ", names.subList(0, Math.min(3, names.size())))));
    }
    return exported;
  }
}

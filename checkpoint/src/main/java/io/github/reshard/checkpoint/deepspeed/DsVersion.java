package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.Comparator;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The version of DeepSpeed that saved a file. {@code ds_version} stands in the optimizer's own
 * {@code state_dict()}, in the optimizer file around it and in the model file; {@code
 * load_state_dict} wants the first (DeepSpeed 0.9.5 to 0.19.8, runtime/zero/stage_1_and_2.py,
 * runtime/engine.py).
 */
public record DsVersion(int major, int minor, int patch) implements Comparable<DsVersion> {
  /** From here on each rank records its own padding (stage_1_and_2.py). */
  public static final DsVersion OWN_PADDINGS = new DsVersion(0, 16, 4);

  /** From here on {@code param_alignment_paddings} are recorded (stage_1_and_2.py). */
  public static final DsVersion PARAMETER_ALIGNMENT = new DsVersion(0, 19, 7);

  private static final String KEY = "ds_version";

  /** Such as {@code 0.16.4} or, built from source, {@code 0.16.4+unknown}. */
  private static final Pattern FORM = Pattern.compile("(\\d{1,6})\\.(\\d{1,6})\\.(\\d{1,6}).*");

  /** The first of {@code roots} that says its version; none if none does. */
  public static Optional<DsVersion> in(PickledValue... roots) {
    for (PickledValue root : roots) {
      Optional<PickledValue> version = root.findPresent(KEY);
      if (version.isPresent() && version.get().node() instanceof PyStr text) {
        Matcher matcher = FORM.matcher(text.value());
        if (matcher.matches()) {
          return Optional.of(
              new DsVersion(
                  Integer.parseInt(matcher.group(1)),
                  Integer.parseInt(matcher.group(2)),
                  Integer.parseInt(matcher.group(3))));
        }
      }
    }
    return Optional.empty();
  }

  public boolean isBefore(DsVersion other) {
    return compareTo(other) < 0;
  }

  @Override
  public int compareTo(DsVersion other) {
    return Comparator.comparingInt(DsVersion::major)
        .thenComparingInt(DsVersion::minor)
        .thenComparingInt(DsVersion::patch)
        .compare(this, other);
  }
}

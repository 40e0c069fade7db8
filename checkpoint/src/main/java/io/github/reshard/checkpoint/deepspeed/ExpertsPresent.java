package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Whether the files of experts' weights are all there, no more of them, and each holds the expert
 * that its name says. DeepSpeed loads a file by its name and renames what has that expert's number
 * (DeepSpeed 0.19.6, runtime/engine.py, {@code load_moe_state_dict}); another number it would load
 * as it is.
 */
public final class ExpertsPresent {
  private static final Pattern NAME =
      Pattern.compile("(.*deepspeed_experts\\.)(\\d{1,9})\\..+", Pattern.DOTALL);

  private ExpertsPresent() {}

  /**
   * Checks the files of {@code mpRank}.
   *
   * @param model its model file, which says how many experts each layer has
   * @param files the files of experts by name
   * @throws RefusedException if one is missing, too many, or another expert's
   */
  public static void require(ModelStates model, int mpRank, Map<String, TorchFile> files) {
    Map<CheckpointFiles.ExpertName, TorchFile> experts = new HashMap<>();
    files.forEach(
        (name, file) -> {
          CheckpointFiles.ExpertName expert = CheckpointFiles.ExpertName.parse(name);
          if (expert != null && expert.mpRank() == mpRank) {
            experts.put(expert, file);
          }
        });
    requireNumbers(model, mpRank, experts);
    Map<Integer, String> places = new TreeMap<>();
    experts.forEach((expert, file) -> requireOf(expert, file, places));
  }

  private static void requireNumbers(
      ModelStates model, int mpRank, Map<CheckpointFiles.ExpertName, TorchFile> experts) {
    Optional<PickledValue> numbers =
        model.root().findPresent("num_experts").filter(PickledValue::isList);
    if (numbers.isEmpty() || experts.isEmpty()) {
      return;
    }
    List<PickledValue> layers = numbers.get().items();
    List<String> missing = new ArrayList<>();
    long expected = 0;
    for (int layer = 0; layer < layers.size(); layer++) {
      int count = layers.get(layer).asInt();
      expected += count;
      // A file may claim any number of experts; a few that are missing say enough.
      for (int expert = 0; expert < count && missing.size() < 8; expert++) {
        if (!experts.containsKey(new CheckpointFiles.ExpertName(layer, expert, mpRank))) {
          missing.add("layer_%d_expert_%d".formatted(layer, expert));
        }
      }
    }
    if (!missing.isEmpty()) {
      throw numbers
          .get()
          .refused(
              "says that there are %s experts, but of mp rank %d the files of %s are missing. Copy them, too."
                  .formatted(layers.stream().map(PickledValue::asInt).toList(), mpRank, missing));
    }
    if (experts.size() > expected) {
      TorchFile extra =
          experts.entrySet().stream()
              .filter(
                  e ->
                      e.getKey().layer() >= layers.size()
                          || e.getKey().expert() >= layers.get(e.getKey().layer()).asInt())
              .map(Map.Entry::getValue)
              .findFirst()
              .orElseThrow();
      throw new RefusedException(
          extra.path(),
          "is the file of an expert that the model does not have: %s says that its layers have %s. Two checkpoints are mixed here; keep the files of one."
              .formatted(numbers.get().where(), layers.stream().map(PickledValue::asInt).toList()));
    }
  }

  /**
   * @param places for each layer where in the module it is, as the files looked at so far say
   */
  private static void requireOf(
      CheckpointFiles.ExpertName expert, TorchFile file, Map<Integer, String> places) {
    for (PickledValue.Entry entry :
        PickledValue.root(file.path(), file.parse().root()).children()) {
      Matcher m = NAME.matcher(entry.key());
      if (!m.matches()) {
        continue;
      }
      if (Integer.parseInt(m.group(2)) != expert.expert()) {
        throw new RefusedException(
            file.path(),
            "expected the weights of expert %d, as its name says, found %s. The file was exchanged, copied or renamed."
                .formatted(expert.expert(), entry.key()));
      }
      String place = places.putIfAbsent(expert.layer(), m.group(1));
      boolean elsewhere =
          place == null
              ? places.entrySet().stream()
                  .anyMatch(e -> e.getKey() != expert.layer() && e.getValue().equals(m.group(1)))
              : !place.equals(m.group(1));
      if (elsewhere) {
        throw new RefusedException(
            file.path(),
            "holds %s, which is of another layer than its name and those of the other files say. The file was exchanged, copied or renamed."
                .formatted(entry.key()));
      }
    }
  }
}

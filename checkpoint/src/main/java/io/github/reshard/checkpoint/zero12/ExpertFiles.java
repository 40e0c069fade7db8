package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The weights of the experts of one mp rank in the order of {@code module.parameters()}: mixtures
 * are numbered as {@code named_modules()} has them, a mixture's experts by their numbers, and a
 * file holds its expert in the order of the module (DeepSpeed 0.9.5 to 0.19.6, runtime/engine.py,
 * {@code _save_moe_checkpoint}).
 *
 * @param where the checkpoint, for messages
 * @param mpRank the model-parallel rank
 * @param layers the mixtures of experts
 */
record ExpertFiles(String where, int mpRank, List<Layer> layers) {
  private static final Pattern NAME =
      Pattern.compile("(.*deepspeed_experts\\.)(\\d{1,9})(\\..+)", Pattern.DOTALL);

  /**
   * The experts of a mixture.
   *
   * @param number its number
   * @param experts for each expert its file
   */
  record Layer(int number, List<ExpertFile> experts) {}

  /**
   * The weights of one expert by global name.
   *
   * @param path of the file
   * @param weights in the order of the file
   */
  record ExpertFile(String path, Map<String, StoredWeight> weights) {}

  /**
   * A parameter of a rank's experts, which every expert-parallel rank has of its own.
   *
   * @param name the name within a rank
   * @param layer the mixture that it is in
   * @param shape elements per dimension
   * @param weights its weight on each expert-parallel rank
   */
  record LocalParameter(String name, int layer, List<Long> shape, List<StoredWeight> weights) {
    long elements() {
      return weights.get(0).elements();
    }
  }

  /**
   * @param files the files of experts by name
   * @throws RefusedException if one is missing or holds another expert than its name says
   */
  static ExpertFiles of(
      DeepSpeedReading reading, Map<String, ReadFile> files, int mpRank, ModelStates model) {
    Map<List<Integer>, ReadFile> byExpert = new HashMap<>();
    files.forEach(
        (name, file) -> {
          CheckpointFiles.ExpertName parsed = CheckpointFiles.ExpertName.parse(name);
          if (parsed != null && parsed.mpRank() == mpRank) {
            byExpert.put(List.of(parsed.layer(), parsed.expert()), file);
          }
        });
    List<Layer> layers = new ArrayList<>();
    List<PickledValue> counts = model.root().get("num_experts").items();
    for (int layer = 0; layer < counts.size(); layer++) {
      List<ExpertFile> experts = new ArrayList<>();
      int count = counts.get(layer).asInt();
      for (int expert = 0; expert < count; expert++) {
        ReadFile file = byExpert.get(List.of(layer, expert));
        if (file == null) {
          throw new RefusedException(
              reading.where(),
              "num_experts says that mixture %d has %d experts, but there is no file layer_%d_expert_%d_mp_rank_%02d_model_states.pt. Copy all files of the checkpoint into one directory."
                  .formatted(layer, count, layer, expert, mpRank));
        }
        experts.add(read(reading, file.file(), file.source(), expert));
      }
      layers.add(new Layer(layer, experts));
    }
    return new ExpertFiles(reading.where(), mpRank, layers);
  }

  private static ExpertFile read(DeepSpeedReading reading, TorchFile file, int source, int expert) {
    Map<String, StoredWeight> weights = new LinkedHashMap<>();
    for (PickledValue.Entry entry :
        PickledValue.root(file.path(), file.parse().root()).children()) {
      TensorNode tensor = entry.value().asTensor().orElse(null);
      if (tensor == null) {
        continue;
      }
      Matcher name = NAME.matcher(entry.key());
      if (!name.matches() || Integer.parseInt(name.group(2)) != expert) {
        throw entry.value().refused("expected a weight of expert %d.".formatted(expert));
      }
      weights.put(entry.key(), StoredWeight.of(reading, source, file, entry.value()));
    }
    return new ExpertFile(file.path(), weights);
  }

  /**
   * What a rank has of the mixtures whose experts fall on {@code size} expert-parallel ranks, if
   * they do so evenly, by name and in the order of the module.
   *
   * @throws RefusedException if the experts of a mixture are not alike
   */
  Map<String, LocalParameter> onRanksOf(int size) {
    Map<String, LocalParameter> parameters = new LinkedHashMap<>();
    for (Layer layer : layers) {
      int local = layer.experts().size() / size;
      if (local * size != layer.experts().size()) {
        continue;
      }
      for (int expert = 0; expert < local; expert++) {
        for (Map.Entry<String, StoredWeight> first :
            layer.experts().get(expert).weights().entrySet()) {
          List<StoredWeight> weights = new ArrayList<>();
          for (int rank = 0; rank < size; rank++) {
            int global = rank * local + expert;
            weights.add(like(first, layer.experts().get(global), global));
          }
          parameters.put(
              first.getKey(),
              new LocalParameter(
                  first.getKey(), layer.number(), first.getValue().shape(), weights));
        }
      }
    }
    return parameters;
  }

  private static StoredWeight like(
      Map.Entry<String, StoredWeight> first, ExpertFile file, int expert) {
    Matcher name = NAME.matcher(first.getKey());
    if (!name.matches()) {
      throw new IllegalArgumentException(first.getKey());
    }
    String global = name.group(1) + expert + name.group(3);
    StoredWeight weight = file.weights().get(global);
    if (weight == null) {
      throw new RefusedException(
          file.path(),
          "expected '%s', which other experts of this mixture have. The files do not belong together."
              .formatted(global));
    }
    if (!weight.shape().equals(first.getValue().shape())
        || weight.dtype() != first.getValue().dtype()) {
      throw new RefusedException(
          weight.where(),
          "expected shape %s and type %s, which %s has, found %s and %s. The files do not belong together."
              .formatted(
                  first.getValue().shape(),
                  first.getValue().dtype().torchName(),
                  first.getValue().where(),
                  Arrays.toString(weight.shape().toArray()),
                  weight.dtype().torchName()));
    }
    return weight;
  }
}

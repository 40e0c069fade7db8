package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Which trained parameters may have no weight in the files beside the optimizer's. DeepSpeed leaves
 * out frozen ones on request ({@code exclude_frozen_parameters}), trained ones never; so one whose
 * weight is missing means that a file is missing, or is another one than its name says.
 */
public final class MissingWeights {
  /**
   * {@code PipelineModule} calls a parameter by the number of its layer (runtime/pipe/module.py).
   */
  private static final Pattern OF_LAYER = Pattern.compile("(\\d{1,9})\\.(.+)", Pattern.DOTALL);

  /** A layer that stands in more than one place has its name for all of them. */
  private static final String TIED = "tied_modules.";

  private static final Pattern OF_TIED_LAYER =
      Pattern.compile("tied_modules\\.([^.]+)\\.(.+)", Pattern.DOTALL);

  private static final Pattern OF_EXPERT =
      Pattern.compile(".*deepspeed_experts\\.\\d{1,9}\\..+", Pattern.DOTALL);

  private final ModelStates model;
  private final Map<String, TensorNode> module;
  private final boolean hasLayers;
  private final List<String> missing = new ArrayList<>();
  private long missingElements;
  private final Set<String> parameters = new HashSet<>();

  /**
   * @param model the model file of the mp rank
   * @param hasLayers whether there are files of layers, as pipeline runs have them
   */
  public MissingWeights(ModelStates model, boolean hasLayers) {
    this.model = model;
    this.module = model.module();
    this.hasLayers = hasLayers;
  }

  /** What a parameter of a tied layer is called in the file of that layer; empty for others. */
  public static Optional<String> nameInTiedLayer(String parameter) {
    Matcher m = OF_TIED_LAYER.matcher(parameter);
    return m.matches() ? Optional.of(m.group(2)) : Optional.empty();
  }

  /** Takes note of a parameter that has its weight. */
  public void found(Parameter parameter) {
    parameters.add(parameter.name());
  }

  /**
   * Takes note of a parameter that every rank has and whose weight was not found.
   *
   * @throws RefusedException if a file of a layer should hold it
   */
  public void dense(Parameter parameter) {
    Matcher ofLayer = OF_LAYER.matcher(parameter.name());
    if (isPipeline() && ofLayer.matches()) {
      throw new RefusedException(
          model.root().file(),
          hasLayers
              ? "expected the weight '%s' of the trained parameter %s in the file of layer %s, which does not hold it. The file is missing, or is that of another layer or of another model."
                  .formatted(ofLayer.group(2), parameter.name(), ofLayer.group(1))
              : "is of a pipeline run with the trained parameter %s, but there are no files of layers (layer_*-model_states.pt). Copy them, too."
                  .formatted(parameter.name()));
    }
    add(parameter);
  }

  /**
   * Takes note of a parameter of a tied layer, of which no file of a layer holds a weight.
   *
   * @throws RefusedException if one should
   */
  public void tied(Parameter parameter) {
    if (isPipeline()) {
      throw new RefusedException(
          model.root().file(),
          "expected the weight of the trained parameter %s in the file of its layer (layer_*-model_states.pt), found it in none. A file is missing, or is that of another layer."
              .formatted(parameter.name()));
    }
    add(parameter);
  }

  /**
   * Takes note of a parameter of an expert whose weight was not found.
   *
   * @param global its name in the experts' files
   * @throws RefusedException if a file of an expert should hold it
   */
  public void expert(String global, Parameter parameter) {
    if (OF_EXPERT.matcher(global).matches()) {
      throw new RefusedException(
          model.root().file(),
          "expected the weight of the trained parameter %s in the file of its expert (layer_*_expert_*_model_states.pt), found it in none. A file is missing, or is that of another expert."
              .formatted(global));
    }
    add(parameter);
  }

  /** The engine of a pipeline has no state dict of its own (runtime/pipe/engine.py). */
  private boolean isPipeline() {
    return model.root().findPresent("module").isEmpty();
  }

  private void add(Parameter parameter) {
    parameters.add(parameter.name());
    missing.add(parameter.name());
    missingElements += parameter.elements();
  }

  /**
   * What could not be found; empty if all was.
   *
   * @throws RefusedException if the module has some weights, and what is missing cannot be in it
   *     under another name
   */
  public Optional<String> note() {
    if (missing.isEmpty()) {
      return Optional.empty();
    }
    boolean excluded = module.isEmpty() || missing.size() == parameters.size();
    boolean renamed = otherElements() >= missingElements;
    for (String name : missing) {
      if (!excluded && !renamed && !isTied(name)) {
        throw new RefusedException(
            model.root().file(),
            "module has no weight of the trained parameter %s, and nothing that could be it under another name. The file is damaged, or of another model."
                .formatted(name));
      }
    }
    String why =
        missing.stream().allMatch(name -> name.startsWith(TIED))
            ? " (layers that are tied have one file)"
            : "";
    return Optional.of(
        "%s: %d of %d parameters have no weight in the model files%s; their order could not be proven against it."
            .formatted(model.root().file(), missing.size(), parameters.size(), why));
  }

  /** Whether the module has the parameter under the name of another one that is the same. */
  private boolean isTied(String name) {
    return model.root().findPresent(ModelStates.SHARED_PARAMS).stream()
        .flatMap(shared -> shared.children().stream())
        .anyMatch(
            entry ->
                module.containsKey(entry.key())
                    && entry.value().node() instanceof PyStr first
                    && first.value().equals(name));
  }

  /** Elements of the module under names that are of no parameter: a hook of the model made them. */
  private long otherElements() {
    Set<String> known = new HashSet<>(model.bufferNames());
    known.addAll(parameters);
    model.frozen().forEach(p -> known.add(p.name()));
    known.addAll(model.tiedNames());
    return module.entrySet().stream()
        .filter(entry -> !known.contains(entry.getKey()))
        .mapToLong(entry -> entry.getValue().numel())
        .sum();
  }
}

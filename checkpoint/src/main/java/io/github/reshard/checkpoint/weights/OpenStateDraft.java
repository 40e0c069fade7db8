package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.ExportRequest;
import io.github.reshard.checkpoint.openstate.OpenFormat;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.safetensors.JsonText;
import io.github.reshard.checkpoint.safetensors.SafetensorsLayout;
import io.github.reshard.checkpoint.state.ParamId;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.weights.PlannedTensor.Origin;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * The optimizer's states beside the weights: tensors as safetensors, one for each parameter and
 * state, and what is no tensor as JSON. docs/open-state.md is the format.
 */
final class OpenStateDraft {
  private final ReshardPlan source;
  private final Map<String, PlannedTensor> weights;
  private final Map<String, String> names;
  private final List<Map<String, Object>> groups = new ArrayList<>();
  private final Map<String, Object> parameters = new LinkedHashMap<>();
  private final Map<String, PlannedTensor> tensors = new LinkedHashMap<>();
  private final List<SafetensorsLayout.Tensor> laidOut = new ArrayList<>();

  /**
   * @param weights the weights that are written, by their names in the module
   * @param names what each is called in the output
   * @param paramGroups hyper-parameters and step of each param group
   */
  OpenStateDraft(
      ReshardPlan source,
      Map<String, PlannedTensor> weights,
      Map<String, String> names,
      List<Map<String, Object>> paramGroups) {
    this.source = source;
    this.weights = weights;
    this.names = names;
    groups.addAll(paramGroups);
  }

  /**
   * @throws RefusedException if it is not known how to write the states of {@code source} so
   */
  static void requireSupported(ReshardPlan source, ExportRequest request) {
    String problem = null;
    if (request.only().isPresent()) {
      problem = "--optimizer is of all parameters, and --only leaves some out. Give one of them.";
    } else if (source.models().stream().anyMatch(m -> m.expertRank() != ParamId.NO_EXPERT)) {
      problem = "states of experts are not written. Leave --optimizer out.";
    } else if (source.models().stream().anyMatch(m -> m.mpRank() != 0)) {
      problem =
          "states of more than one model-parallel rank are not written. Make one of them with"
              + " --targetPipelineParallelSize=1 and --targetTensorParallelSize=1, and export that;"
              + " or leave --optimizer out.";
    }
    if (problem != null) {
      throw new RefusedException(source.checkpoint(), problem);
    }
  }

  /** Adds the states of a parameter; frozen ones have none. */
  void add(String name, int model, int index) {
    PartitionedModel of = source.models().get(model);
    Map<String, DType> states = of.statesOf(index);
    if (!states.containsKey(States.MASTER)) {
      return;
    }
    List<Long> shape = of.parameters().get(index).shape();
    String exported = names.get(name);
    Map<String, Object> written = new LinkedHashMap<>();
    states.forEach(
        (state, dtype) -> {
          Origin.State origin = new Origin.State(model, index, state);
          if (weights.get(name).origin().equals(origin)) {
            written.put(state, exported);
            return;
          }
          String tensor = exported + "." + state;
          if (tensors.put(tensor, new PlannedTensor(name, origin, dtype, dtype, shape)) != null) {
            throw new RefusedException(
                source.checkpoint(), "two states would both be called %s.".formatted(tensor));
          }
          laidOut.add(new SafetensorsLayout.Tensor(tensor, dtype, shape));
          written.put(state, tensor);
        });
    Map<String, Object> parameter = new LinkedHashMap<>();
    parameter.put(OpenFormat.GROUP, (long) of.parameters().get(index).group());
    parameter.put(OpenFormat.STATES, written);
    parameters.put(exported, parameter);
  }

  /** The tensors beside the weights, by their names in the output. */
  Map<String, PlannedTensor> tensors() {
    return tensors;
  }

  List<SafetensorsLayout.Tensor> laidOut() {
    return laidOut;
  }

  /**
   * What is no tensor.
   *
   * @param ofDeepSpeed what its files say beside all that, if that is known
   */
  byte[] json(Optional<Map<String, Object>> ofDeepSpeed) {
    Map<String, Object> root = new LinkedHashMap<>();
    root.put(OpenFormat.VERSION_KEY, (long) OpenFormat.VERSION);
    root.put(OpenFormat.PARAM_GROUPS, groups);
    root.put(OpenFormat.PARAMETERS, parameters);
    ofDeepSpeed.ifPresent(values -> root.put(OpenFormat.OF_DEEPSPEED, values));
    return (JsonText.indented(root) + "\n").getBytes(StandardCharsets.UTF_8);
  }
}

package io.github.reshard.checkpoint.openstate;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.ComposedTorchFile.Piece;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.universal.UniversalFiles;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * An open state that is whole: each trained parameter is in one param group and has a weight and
 * the states of its group, and steps that are said twice are the same.
 */
final class WholeState {
  private final OpenState state;
  private final OpenTensors tensors;
  private final OpenDigests digests;
  private final Map<String, OpenState.ModuleTensor> module = new LinkedHashMap<>();
  private final List<Parameter> parameters = new ArrayList<>();
  private final FlatLayout layout;

  /**
   * @throws RefusedException if it is not whole
   */
  WholeState(OpenState state, OpenTensors tensors, OpenDigests digests) {
    this.state = state;
    this.tensors = tensors;
    this.digests = digests;
    state.module().forEach(tensor -> module.put(tensor.name(), tensor));
    requireWhole();
    List<FlatLayout.Group> groups = new ArrayList<>();
    for (int g = 0; g < state.groups().size(); g++) {
      for (String name : state.groups().get(g).order()) {
        parameters.add(new Parameter(name, weight(name).shape(), g));
      }
      groups.add(FlatLayout.Group.dense(state.groups().get(g).order().size(), 1));
    }
    this.layout = new FlatLayout(1, parameters, groups, false);
  }

  /** What is said. */
  OpenState state() {
    return state;
  }

  /** The trained parameters, group after group. */
  List<Parameter> parameters() {
    return parameters;
  }

  /** How they lie flat on one rank. */
  FlatLayout layout() {
    return layout;
  }

  /** That what {@code optimizer.json} says at {@code where} cannot be. */
  RefusedException refused(String where, String problem) {
    return new RefusedException(state.path() + ", " + where, problem);
  }

  /** What the user should know of what is not in it. */
  List<String> notes() {
    return state.leftOut().stream()
        .map(
            name ->
                "%s has no place in JSON, so the open state does not hold it and the output does not"
                    .formatted(name))
        .toList();
  }

  private void requireWhole() {
    for (String name : state.leftOut()) {
      String ofModel = OpenFormat.MODEL + ".";
      if (!name.startsWith(ofModel)
          || OpenFormat.NEEDED_OF_MODEL.contains(name.substring(ofModel.length()))) {
        throw refused(
            OpenFormat.LEFT_OUT,
            "%s of the checkpoint has no place in JSON and was left out, and a run cannot go on without it. Reshard the checkpoint itself."
                .formatted(name));
      }
    }
    Set<String> trained = new HashSet<>();
    for (int g = 0; g < state.groups().size(); g++) {
      Set<String> first = null;
      for (String name : state.groups().get(g).order()) {
        OpenState.ModuleTensor weight = module.get(name);
        if (weight == null || weight.tensor() == null) {
          throw refused(OpenFormat.ORDER, "names %s, and no tensor of the module.".formatted(name));
        }
        OpenState.States states = state.states().get(weight.tensor());
        if (!trained.add(weight.tensor()) || states == null || states.group() != g) {
          throw refused(
              OpenFormat.ORDER,
              "has %s in param group %d, parameters has '%s' %s."
                  .formatted(
                      name,
                      g,
                      weight.tensor(),
                      states == null ? "not at all" : "in group " + states.group()));
        }
        Set<String> names = states.tensors().keySet();
        if (!names.contains(States.MASTER) || (first != null && !names.equals(first))) {
          throw refused(
              OpenFormat.PARAMETERS + "." + weight.tensor(),
              "expected the states %s, found %s."
                  .formatted(first == null ? List.of(States.MASTER) : first, names));
        }
        if (names.contains(UniversalFiles.STEP)) {
          throw refused(
              OpenFormat.PARAMETERS + "." + weight.tensor(),
              "has a tensor as its step, which all parameters of a group share.");
        }
        first = names;
      }
      requireStep(g);
    }
    for (String name : state.states().keySet()) {
      if (!trained.contains(name)) {
        throw refused(
            OpenFormat.PARAMETERS + "." + name, "is in no param group of deepspeed.order.");
      }
    }
  }

  private void requireStep(int g) {
    OpenState.Group group = state.groups().get(g);
    String where = OpenFormat.PARAM_GROUPS + "[" + g + "].step";
    Object inState = group.state().get(OpenFormat.STEP);
    List<Double> said = new ArrayList<>();
    group.stepOption().ifPresent(step -> said.add(step.doubleValue()));
    if (inState != null) {
      said.add(
          ScalarTensor.of(where, inState)
              .map(scalar -> scalar.number(where))
              .orElseGet(() -> inState instanceof Number step ? step.doubleValue() : Double.NaN));
    }
    if (group.step() == null ? !said.isEmpty() : said.isEmpty()) {
      throw refused(
          where,
          "says %s, deepspeed.groups[%d] %s. Where the optimizer keeps its step is said there."
              .formatted(group.step(), g, said.isEmpty() ? "none" : said.toString()));
    }
    for (double step : said) {
      if (step != group.step().doubleValue()) {
        throw refused(where, "says %s, deepspeed.groups[%d] %s.".formatted(group.step(), g, step));
      }
    }
  }

  /**
   * A tensor of the module.
   *
   * @throws RefusedException if it is nowhere, or not of the type that the run computed with
   */
  OpenTensors.Tensor weight(String name) {
    OpenState.ModuleTensor saved = module.get(name);
    String where = state.path() + ", deepspeed.module." + name;
    OpenTensors.Tensor found = tensors.get(where, saved.tensor(), Optional.empty());
    if (!found.dtype().torchName().equals(saved.dtype())) {
      throw new RefusedException(
          found.file().path() + ", " + saved.tensor(),
          "is of type %s, in the run's module it was of %s. Export the checkpoint without --dtype, so that the masters can be held against the weights."
              .formatted(found.dtype().torchName(), saved.dtype()));
    }
    return found;
  }

  /** The bytes of a tensor of the module. */
  Piece weightPiece(String name, OpenTensors.Tensor tensor) {
    Optional<Integer> crc = digests.of(name, States.MODULE, tensor);
    if (crc.isEmpty()) {
      crc = digests.of(name, States.FROZEN, tensor);
    }
    OpenState.States states = state.states().get(module.get(name).tensor());
    if (crc.isEmpty()
        && states != null
        && module.get(name).tensor().equals(states.tensors().get(States.MASTER))) {
      crc = digests.of(name, States.MASTER, tensor);
    }
    return tensor.piece(crc);
  }

  /** What the tensors of the states of a parameter are called, by state. */
  Map<String, String> tensorsOf(Parameter parameter) {
    return state.states().get(module.get(parameter.name()).tensor()).tensors();
  }

  /** The tensors of the states of a parameter, by state. */
  Map<String, OpenTensors.Tensor> states(Parameter parameter) {
    String name = module.get(parameter.name()).tensor();
    Map<String, OpenTensors.Tensor> found = new LinkedHashMap<>();
    state
        .states()
        .get(name)
        .tensors()
        .forEach(
            (of, tensor) ->
                found.put(
                    of,
                    tensors.get(
                        state.path() + ", parameters." + name + ".states." + of,
                        tensor,
                        Optional.of(parameter.shape()))));
    return found;
  }

  /** The bytes of a state. */
  Piece statePiece(String parameter, String of, OpenTensors.Tensor tensor) {
    return tensor.piece(digests.of(parameter, of, tensor));
  }
}

package io.github.reshard.checkpoint.universal;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.ModelStates;
import io.github.reshard.checkpoint.deepspeed.ModuleParameters;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.zero12.FlatLayout;
import io.github.reshard.checkpoint.zero3.ShardedLayout;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * Where {@code load_universal} goes wrong whatever it is given (DeepSpeed 0.19.8 and before it,
 * runtime/base_optimizer.py and runtime/zero/stage3.py, {@code
 * load_hp_checkpoint_state_from_checkpoint_dir}): said, and refused where the run that will load is
 * named and cannot load it right.
 */
final class UniversalLoad {
  private static final int ZERO_3 = 3;
  private static final int MOST_RANKS_SAID = 4096;

  /** All that stage 3 loads. */
  private static final Set<String> ADAM = Set.of(States.MASTER, "exp_avg", "exp_avg_sq");

  private final PlanDraft draft;
  private final Optional<Integer> ranks;
  private final int stage;
  private final Set<String> said = new HashSet<>();

  /**
   * @param ranks how many data-parallel ranks will load, if it was said
   * @param stage the ZeRO stage at which they will, or {@link ZeroStage#AS_SAVED} if it was not
   *     said
   */
  UniversalLoad(PlanDraft draft, Optional<Integer> ranks, int stage) {
    this.draft = draft;
    this.ranks = ranks;
    this.stage = stage;
  }

  /** Says what model-parallel ranks may have in common once. */
  private void note(String what) {
    if (said.add(what)) {
      draft.note(what);
    }
  }

  /** Says or refuses what is wrong at any stage. */
  private void wrongAtAny(String what) {
    if (stage != ZeroStage.AS_SAVED) {
      throw refused(what);
    }
    note(what);
  }

  /** Says or refuses what is wrong at stage 3 alone. */
  private void wrongAt3(String what) {
    if (stage == ZERO_3) {
      throw refused(what);
    }
    if (stage == ZeroStage.AS_SAVED) {
      note(what);
    }
  }

  private RefusedException refused(String what) {
    return new RefusedException(
        draft.state().checkpoint(),
        what
            + ". Leave --outputFormat out, or --targetStage and --targetWorldSize if it is to be"
            + " written all the same.");
  }

  /** What one model-parallel rank brings. */
  void check(ModelStates model, ParameterSet parameters, UniversalState state) {
    checkRoundRobin(model);
    checkOthers(model, parameters);
    checkHyperParameters(state);
    checkStates(parameters, state);
    checkSubGroups(model, parameters, state);
    checkSmallGroups(parameters);
  }

  private void checkRoundRobin(ModelStates model) {
    Optional<DsConfig> config = model.config();
    if (stage != ZERO_3
        && config.isPresent()
        && config.get().roundRobin()
        && !config.get().alignsParameters()) {
      note(
          "ds_config has round_robin_gradients: switch it off in the run that loads. With it"
              + " load_universal at stage 1 and 2 puts states where other parameters are, on more"
              + " than one rank and without a word; from DeepSpeed 0.19.7 on parameter_alignment"
              + " avoids that");
    }
  }

  /** What is in the module and nothing trains. */
  private void checkOthers(ModelStates model, ParameterSet parameters) {
    Set<String> known = new HashSet<>(model.tiedNames());
    parameters.parameters().forEach(parameter -> known.add(parameter.name()));
    Set<String> places = new HashSet<>();
    Map<String, TensorNode> module = model.module();
    module.forEach(
        (name, tensor) -> {
          if (known.contains(name)) {
            places.add(ModuleParameters.place(tensor));
          }
        });
    List<String> others = new ArrayList<>();
    module.forEach(
        (name, tensor) -> {
          if (!known.contains(name) && !places.contains(ModuleParameters.place(tensor))) {
            others.add(name);
          }
        });
    if (!others.isEmpty()) {
      note(
          "load_universal restores neither buffers nor frozen parameters: %d tensors, such as %s, stay as the script that loads makes them. They are in the model file, under module and frozen_param_fragments"
              .formatted(others.size(), others.get(0)));
    }
  }

  private void checkHyperParameters(UniversalState state) {
    if (state.paramGroups().isEmpty()) {
      note(
          "elastic_checkpoint saves no hyper-parameters: lr and the like stay as the run that loads"
              + " makes them");
      return;
    }
    List<PickledValue> groups = state.paramGroups().get().items();
    for (int g = 1; g < groups.size(); g++) {
      Optional<String> difference =
          PyEquality.firstDifference(
              withoutParams(groups.get(0)), withoutParams(groups.get(g)), (a, b) -> false);
      if (difference.isPresent()) {
        wrongAt3(
            "load_universal at stage 3 gives every param group the hyper-parameters of the first, and those of group %d differ (%s)"
                .formatted(g, difference.get()));
        return;
      }
    }
  }

  private static PyObject withoutParams(PickledValue group) {
    PyDict rest = new PyDict();
    for (PyEntries.Entry entry : group.entries()) {
      if (!(entry.key() instanceof PyStr key && key.value().equals("params"))) {
        rest.entries().add(entry.key(), entry.value());
      }
    }
    return rest;
  }

  private void checkStates(ParameterSet parameters, UniversalState state) {
    for (int g = 0; g < parameters.states().size(); g++) {
      Set<String> states = parameters.states().get(g).keySet();
      if (!states.equals(ADAM) || state.step(g).isEmpty()) {
        wrongAt3(
            "load_universal at stage 3 loads exp_avg, exp_avg_sq and step, and nothing else; param group %d has %s%s"
                .formatted(g, states, state.step(g).isEmpty() ? " and no step" : " and step"));
        break;
      }
    }
    for (int g = 0; g < state.common().size(); g++) {
      for (PyEntries.Entry entry : state.common().get(g).entries()) {
        if (entry.key() instanceof PyStr key && !key.value().equals(UniversalFiles.STEP)) {
          wrongAtAny(
              "load_universal restores step, and no other state that is one value for a param group: '%s' of group %d stays as the optimizer that loads makes it"
                  .formatted(key.value(), g));
          return;
        }
      }
    }
  }

  /**
   * Every sub-group gets the same tensor as its step, and {@code torch.optim} adds to each in place
   * (seen with DeepSpeed 0.19.8: states right after the load, then other losses).
   */
  private void checkSubGroups(ModelStates model, ParameterSet parameters, UniversalState state) {
    boolean tensor =
        state.common().stream()
            .map(common -> common.get(UniversalFiles.STEP))
            .anyMatch(step -> step != null && TensorNode.of(step).isPresent());
    long size = model.config().map(DsConfig::subGroupSize).orElse(DsConfig.DEFAULT_SUB_GROUP_SIZE);
    int subGroups = new ShardedLayout(ranks.orElse(1), parameters.parameters(), size).buckets();
    if (tensor && subGroups > 1) {
      wrongAt3(
          "load_universal at stage 3 gives all %d sub-groups one and the same step, to which each adds: it runs ahead from the first step on. Load with a sub_group_size that makes one sub-group, or reshard natively"
              .formatted(subGroups));
    }
  }

  /** A rank without a parameter of a group has no step to take from it: {@code steps[0]}. */
  private void checkSmallGroups(ParameterSet parameters) {
    if (stage == ZERO_3) {
      return;
    }
    int groups = parameters.states().size();
    for (int g = 0; g < groups; g++) {
      int group = g;
      List<Parameter> ofGroup =
          parameters.parameters().stream()
              .filter(p -> p.group() == group)
              .map(p -> new Parameter(p.name(), p.shape(), 0))
              .toList();
      if (ranks.isPresent() && leavesOneEmpty(ofGroup, ranks.get())) {
        throw refused(
            "on %d ranks one holds nothing of param group %d, where load_universal at stage 1 and 2 ends with IndexError: list index out of range"
                .formatted(ranks.get(), g));
      }
      long elements = ofGroup.stream().mapToLong(Parameter::elements).sum();
      if (ranks.isEmpty() && elements < 2L * MOST_RANKS_SAID) {
        int most = 1;
        while (most < MOST_RANKS_SAID && !leavesOneEmpty(ofGroup, most + 1)) {
          most++;
        }
        if (most < MOST_RANKS_SAID) {
          note(
              "param group %d is small: on %d ranks one holds nothing of it, where load_universal at stage 1 and 2 ends with IndexError: list index out of range"
                  .formatted(g, most + 1));
        }
      }
    }
  }

  private static boolean leavesOneEmpty(List<Parameter> ofGroup, int ranks) {
    FlatLayout layout =
        new FlatLayout(
            ranks, ofGroup, List.of(FlatLayout.Group.dense(ofGroup.size(), ranks)), false);
    return layout.extentsIn(ranks - 1, 0).isEmpty();
  }
}

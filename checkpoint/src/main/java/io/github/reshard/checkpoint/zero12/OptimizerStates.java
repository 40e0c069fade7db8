package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyEquality;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyNone;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.IntStream;

/**
 * What an optimizer file of ZeRO-1 or 2 says (DeepSpeed 0.19.6, runtime/zero/stage_1_and_2.py and
 * runtime/bf16_optimizer.py, {@code state_dict}).
 *
 * @param root the pickled dict, either what {@code save_checkpoint} wraps or the bare {@code
 *     state_dict()}
 */
public record OptimizerStates(PickledValue root) {
  public static final String GROUP_PADDINGS = "group_paddings";
  public static final String PARAM_SLICE_MAPPINGS = "param_slice_mappings";
  static final String CLIP = "clip_grad";
  static final String MASTERS = "single_partition_of_fp32_groups";
  static final String BASE_STATE = "base_optimizer_state";
  private static final Pattern EXPERT_GROUP = Pattern.compile("ep_size_([1-9]\\d{0,6})");

  private static final Pattern VERSION = Pattern.compile("(\\d{1,6})\\.(\\d{1,6})\\.(\\d{1,6})");

  private OptimizerFile file() {
    return new OptimizerFile(root);
  }

  /** The optimizer's own {@code state_dict()}. */
  public PickledValue stateDict() {
    return file().stateDict();
  }

  /** Whether BF16_Optimizer wrote it. */
  public boolean isBf16Optimizer() {
    return file().isBf16Optimizer();
  }

  /** ZeRO stage, or 1 for BF16_Optimizer. */
  public int stage() {
    return file().stage();
  }

  /** The inner optimizer's {@code state_dict()}, or with elastic checkpoints a list of states. */
  public PickledValue baseState() {
    return stateDict().get(BASE_STATE);
  }

  public int groups() {
    return masters().size();
  }

  List<PickledValue> masters() {
    return stateDict().get(MASTERS).items();
  }

  /**
   * {@code elastic_checkpoint}: a list of states, each cut to the elements that are not padding.
   */
  public boolean isElastic() {
    return stateDict().get(BASE_STATE).isList();
  }

  List<Long> numbers(String key) {
    return stateDict().get(key).items().stream().map(PickledValue::asLong).toList();
  }

  /** {@code partition_count} of each group; older files have one number for all. */
  public List<Long> partitionCounts() {
    PickledValue counts = stateDict().get(OptimizerFile.PARTITION_COUNT);
    return counts.isList()
        ? numbers(OptimizerFile.PARTITION_COUNT)
        : java.util.Collections.nCopies(groups(), counts.asLong());
  }

  /**
   * The parameters that {@code param_slice_mappings} names for {@code group}; none if it is absent.
   */
  List<String> sliceNames(int group) {
    return stateDict()
        .findPresent(PARAM_SLICE_MAPPINGS)
        .map(mappings -> mappings.items().get(group).children())
        .orElse(List.of())
        .stream()
        .map(PickledValue.Entry::key)
        .toList();
  }

  /** How many elements {@code param_slice_mappings} name for {@code group}. */
  long recordedElements(int group) {
    return stateDict().get(PARAM_SLICE_MAPPINGS).items().get(group).children().stream()
        .mapToLong(entry -> fragment(entry.value()).get("numel").asLong())
        .sum();
  }

  /** The fields of a {@code fragment_address}. */
  private static PickledValue fragment(PickledValue address) {
    PyObject fields = address.node() instanceof PyInstance made ? made.state() : address.node();
    return new PickledValue(address.file(), address.path(), fields);
  }

  /**
   * A tensor that belongs to a param group.
   *
   * @param state its state: {@link States#MASTER} or a key of the optimizer
   * @param value the tensor
   * @param cut whether padding is cut off the tensor (not off its storage)
   */
  public record GroupTensor(String state, PickledValue value, boolean cut) {
    public TensorNode tensor() {
      return value.tensor();
    }
  }

  /** All tensors of {@code group} that have a dimension, the master weights last. */
  public List<GroupTensor> tensors(int group) {
    List<GroupTensor> tensors = new ArrayList<>();
    Optional<PickledValue> state = state(group);
    if (state.isPresent()) {
      for (StateTensors.Named named : StateTensors.in(state.get())) {
        if (named.tensor().shape().length > 0) {
          // Only what stands in the state's own dict is cut (_get_state_without_padding).
          tensors.add(
              new GroupTensor(named.name(), named.value(), isElastic() && named.isOutermost()));
        }
      }
    }
    tensors.add(new GroupTensor(States.MASTER, masters().get(group), !isBf16Optimizer()));
    return tensors;
  }

  /** The dict of {@code group}'s state, if there is one. */
  public Optional<PyObject> stateNode(int group) {
    return state(group).map(PickledValue::node);
  }

  /** The optimizer's state of {@code group}: none if it keeps none, as SGD without momentum. */
  private Optional<PickledValue> state(int group) {
    PickledValue base = stateDict().get(BASE_STATE);
    if (base.isList()) {
      return Optional.of(base.items().get(group));
    }
    long param = flatParameter(group);
    PickledValue states = base.get("state");
    PyObject state = states.entries().get(param);
    if (state == null || state == PyNone.NONE) {
      return Optional.empty();
    }
    return Optional.of(new PickledValue(root.file(), states.path() + "[" + param + "]", state));
  }

  /** The tensor {@code state} of {@code group}, if there is one that has a dimension. */
  Optional<PickledValue> find(int group, String state) {
    return tensors(group).stream()
        .filter(tensor -> tensor.state().equals(state))
        .map(GroupTensor::value)
        .findFirst();
  }

  /** Takes {@code key} out of the state of {@code group}. */
  void removeState(int group, String key) {
    state(group)
        .ifPresent(
            state ->
                state
                    .entries()
                    .list()
                    .removeIf(e -> e.key() instanceof PyStr name && name.value().equals(key)));
  }

  /**
   * Whether DeepSpeed's Muon updates {@code group}: its options say so (DeepSpeed 0.19.6,
   * runtime/zero/muon/original_muon.py, {@code MuonWithAuxAdam}).
   */
  boolean usesMuon(int group) {
    return !isElastic()
        && usesMuon(stateDict().get(BASE_STATE).get("param_groups").items().get(group));
  }

  /** The same for the options of a group. */
  static boolean usesMuon(PickledValue options) {
    return options.findPresent("use_muon").map(PickledValue::isTrue).orElse(false);
  }

  /** Whether {@code ds_version} says that an older DeepSpeed than this one wrote it. */
  boolean isBefore(int major, int minor, int patch) {
    Optional<Matcher> version =
        stateDict()
            .findPresent("ds_version")
            .filter(found -> found.node() instanceof PyStr)
            .map(found -> VERSION.matcher(found.asString()))
            .filter(Matcher::lookingAt);
    if (version.isEmpty()) {
      return false;
    }
    int[] written =
        IntStream.rangeClosed(1, 3).map(i -> Integer.parseInt(version.get().group(i))).toArray();
    return Arrays.compare(written, new int[] {major, minor, patch}) < 0;
  }

  /** The number of the one parameter that the inner optimizer sees of a group: its partition. */
  private long flatParameter(int group) {
    PickledValue groups = stateDict().get(BASE_STATE).get("param_groups");
    return onlyItem(groups.items().get(group).get("params")).asLong();
  }

  /**
   * Makes the entry of a group without any state what the target rank would have. It is an empty
   * dict, and comes into being when the rank's parameters are linked with their states: on a rank
   * whose partition is all padding there is none (DeepSpeed 0.19.6, runtime/zero/stage_1_and_2.py,
   * {@code _lazy_init_hp_params_optimizer_state}; seen with SGD without momentum).
   *
   * @param holds whether the target rank holds elements of {@code group}
   */
  void setEmptyState(int group, boolean holds) {
    PickledValue base = stateDict().get(BASE_STATE);
    Optional<PickledValue> mappings = stateDict().findPresent(PARAM_SLICE_MAPPINGS);
    if (base.isList() || mappings.isEmpty()) {
      return;
    }
    boolean held = mappings.get().items().get(group).entries().size() > 0;
    Optional<PickledValue> state = state(group);
    List<PyEntries.Entry> states = base.get("state").entries().list();
    if (held && !holds && state.isPresent() && state.get().entries().size() == 0) {
      states.removeIf(e -> e.value() == state.get().node());
    } else if (!held && holds && state.isEmpty()) {
      states.add(
          Math.min(group, states.size()),
          new PyEntries.Entry(PyInt.of(flatParameter(group)), new PyDict()));
    }
  }

  /** Whether two param groups have the same options, whatever parameters they have. */
  boolean hasSameOptions(int one, int other) {
    PickledValue base = stateDict().get(BASE_STATE);
    if (base.isList()) {
      return false;
    }
    List<PickledValue> groups = base.get("param_groups").items();
    List<PickledValue.Entry> a = options(groups.get(one));
    List<PickledValue.Entry> b = options(groups.get(other));
    if (a.size() != b.size()) {
      return false;
    }
    for (int i = 0; i < a.size(); i++) {
      PyObject first = a.get(i).value().node();
      if (!a.get(i).key().equals(b.get(i).key())
          || PyEquality.firstDifference(first, b.get(i).value().node()).isPresent()) {
        return false;
      }
    }
    return true;
  }

  private static List<PickledValue.Entry> options(PickledValue group) {
    return group.children().stream().filter(entry -> !entry.key().equals("params")).toList();
  }

  /**
   * The expert-parallel size of a group of experts, which its name tells ({@code moe/utils.py},
   * {@code split_params_into_different_moe_groups_for_optimizer}), or {@link ParamGroups#DENSE}.
   */
  int expertParallelSize(int group) {
    PickledValue base = stateDict().get(BASE_STATE);
    if (base.isList()) {
      return ParamGroups.DENSE;
    }
    PickledValue options = base.get("param_groups").items().get(group);
    if (!options.findPresent("moe").map(PickledValue::isTrue).orElse(false)) {
      return ParamGroups.DENSE;
    }
    PickledValue name = options.get("name");
    Matcher size = EXPERT_GROUP.matcher(name.asString());
    if (!size.matches()) {
      throw name.refused(
          "expected the name of a group of experts such as ep_size_2, found " + name.describe());
    }
    return Integer.parseInt(size.group(1));
  }

  private static PickledValue onlyItem(PickledValue list) {
    List<PickledValue> items = list.items();
    if (items.size() != 1) {
      throw list.refused(
          "expected the one flat partition of the group, found %d parameters. This is not the state of a ZeRO optimizer."
              .formatted(items.size()));
    }
    return items.get(0);
  }
}

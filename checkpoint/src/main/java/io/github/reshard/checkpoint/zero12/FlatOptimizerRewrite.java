package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.DsConfig;
import io.github.reshard.checkpoint.deepspeed.DsVersion;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.Replicated;
import io.github.reshard.checkpoint.deepspeed.ZeroStage;
import io.github.reshard.checkpoint.format.Rewritten;
import io.github.reshard.checkpoint.format.StorageList;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyGlobal;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.pickle.PyTuple;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.States;
import io.github.reshard.checkpoint.state.WholeParameters;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.StorageKeys;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** Turns the optimizer file of one source rank into that of a target rank. */
public final class FlatOptimizerRewrite {
  public static final PyGlobal ORDERED_DICT = new PyGlobal("collections", "OrderedDict");
  private static final PyGlobal FRAGMENT_ADDRESS =
      new PyGlobal("deepspeed.utils.tensor_fragment", "fragment_address");

  private FlatOptimizerRewrite() {}

  /**
   * A param group of the file.
   *
   * @param layout the target layout that it is in
   * @param group its group there
   * @param whole the states of which a rank holds all of every parameter that it touches
   */
  record Group(FlatLayout layout, int group, Set<String> whole) {
    static Group of(PartitionedModel model, FlatLayout layout, int group) {
      return new Group(layout, group, model.wholeStates(model.target().groupOf(group)));
    }

    static Group ofSource(FileGroup ref) {
      return new Group(ref.source(), ref.group(), ref.set().wholeStates(ref.group()));
    }

    private long wholeElements(int rank) {
      return new WholeParameters(layout).elementsIn(rank, group);
    }
  }

  /**
   * The file as rank 0's, but without Muon's momentum: which parameters that is of is up to the
   * rank.
   */
  static Rewritten comparable(TorchFile file, List<Group> groups) {
    PyObject root = file.parse().root();
    OptimizerStates states = new OptimizerStates(PickledValue.root(file.path(), root));
    for (int g = 0; g < groups.size(); g++) {
      if (states.usesMuon(g)) {
        states.removeState(g, MuonMomentum.STATE);
      }
    }
    return rewrite(file, root, groups, 0, ZeroStage.AS_SAVED, Optional.empty());
  }

  /** The file of a target rank whose param groups are those of the template. */
  static Rewritten rewrite(TorchFile template, List<Group> groups, int rank, int stage) {
    return rewrite(template, groups, rank, stage, Optional.empty());
  }

  /**
   * @param template the source rank's file
   * @param groups the param groups of the file
   * @param rank the target rank
   * @param stage the ZeRO stage of the target, or {@link ZeroStage#AS_SAVED}
   * @param regrouping what changes of the groups, if their experts are divided among other ranks
   */
  static Rewritten rewrite(
      TorchFile template,
      List<Group> groups,
      int rank,
      int stage,
      Optional<Regrouping> regrouping) {
    return rewrite(template, template.parse().root(), groups, rank, stage, regrouping);
  }

  private static Rewritten rewrite(
      TorchFile template,
      PyObject root,
      List<Group> groups,
      int rank,
      int stage,
      Optional<Regrouping> regrouping) {
    OptimizerStates states = new OptimizerStates(PickledValue.root(template.path(), root));
    boolean toBf16Optimizer =
        stage == ZeroStage.AS_SAVED
            ? states.isBf16Optimizer()
            : DsConfig.of(states.root()).makesBf16Optimizer(stage);
    Map<String, Rewritten.Storage> moved = new HashMap<>();
    regrouping.ifPresent(change -> change.regroup(states, moved));
    for (int g = 0; g < groups.size(); g++) {
      FlatLayout layout = groups.get(g).layout();
      int group = groups.get(g).group();
      long partition = layout.bucketElements(group);
      Set<String> whole = groups.get(g).whole();
      long wholeElements = whole.isEmpty() ? 0 : groups.get(g).wholeElements(rank);
      if (wholeElements == 0) {
        for (String state : whole) {
          states.removeState(g, state);
        }
      }
      states.setEmptyState(g, !layout.extentsIn(rank, group).isEmpty());
      for (OptimizerStates.GroupTensor part : states.tensors(g)) {
        TensorNode tensor = part.tensor();
        boolean isWhole = whole.contains(part.state());
        if (!isWhole && Replicated.isReplicated(tensor)) {
          continue;
        }
        String key = "group " + g + " " + part.state();
        long elements = isWhole ? wholeElements : partition;
        StorageKeys.move(tensor, key, elements);
        boolean cut = part.state().equals(States.MASTER) ? !toBf16Optimizer : part.cut();
        // What is whole on each rank is never cut: it has no padding.
        tensor.setGeometry(
            0, new long[] {cut && !isWhole ? layout.cutElements(rank, group) : elements});
        moved.put(
            key,
            new Rewritten.Storage(
                key,
                elements * tensor.dtype().bytes(),
                new Rewritten.Content.PartitionOf(g, part.state())));
      }
    }
    PickledValue stateDict = states.stateDict();
    setNumbers(
        stateDict,
        OptimizerStates.GROUP_PADDINGS,
        groups.size(),
        g ->
            toBf16Optimizer
                ? groups.get(g).layout().paddingOnLastRank(rank, groups.get(g).group())
                : groups.get(g).layout().recordedPadding(rank, groups.get(g).group()));
    ParameterAlignments.write(
        stateDict,
        groups.stream().map(g -> g.layout().alignmentPaddings(g.group())).toList(),
        stage == ZeroStage.AS_SAVED
            ? Optional.empty()
            : Optional.of(
                FlatPaddings.recordsAlignments(
                    DsVersion.in(stateDict, states.root()), DsConfig.of(states.root()), stage)));
    setNumbers(
        stateDict,
        OptimizerFile.PARTITION_COUNT,
        groups.size(),
        g -> groups.get(g).layout().partitionCount(groups.get(g).group()));
    stateDict
        .findPresent(OptimizerStates.PARAM_SLICE_MAPPINGS)
        .ifPresent(
            mappings -> {
              SliceMappings writer = new SliceMappings(mappings);
              List<PyObject> list = ((PyList) mappings.node()).items();
              for (int g = 0; g < groups.size(); g++) {
                FlatLayout layout = groups.get(g).layout();
                list.set(
                    g,
                    writer.mapping(layout, layout.recordedExtentsIn(rank, groups.get(g).group())));
              }
            });
    if (stage != ZeroStage.AS_SAVED) {
      FlatStage.set(states, stage);
    }
    return StorageList.of(template, root, moved);
  }

  private static void setNumbers(
      PickledValue stateDict, String key, int groups, java.util.function.IntToLongFunction value) {
    PickledValue numbers = stateDict.get(key);
    if (numbers.node() instanceof PyList list) {
      for (int g = 0; g < groups; g++) {
        list.items().set(g, PyInt.of(value.applyAsLong(g)));
      }
    } else {
      stateDict.entries().replace(key, PyInt.of(value.applyAsLong(0)));
    }
  }

  /** Writes {@code param_slice_mappings} with the key objects that the file already shares. */
  public static final class SliceMappings {
    private PyStr numel = new PyStr("numel");
    private PyStr start = new PyStr("start");
    private boolean numelFirst = true;

    public SliceMappings(PickledValue mappings) {
      for (PickledValue group : mappings.items()) {
        for (PickledValue.Entry entry : group.children()) {
          if (entry.value().node() instanceof PyInstance address
              && address.state() instanceof PyDict fields) {
            boolean first = true;
            for (PyEntries.Entry field : fields.entries()) {
              PyStr name = (PyStr) field.key();
              if (name.value().equals("numel")) {
                numel = name;
                numelFirst = first;
              } else if (name.value().equals("start")) {
                start = name;
              }
              first = false;
            }
            return;
          }
        }
      }
    }

    public PyInstance mapping(FlatLayout layout, List<Extent> extents) {
      PyInstance mapping = PyInstance.reduce(ORDERED_DICT, PyTuple.of());
      for (Extent extent : extents) {
        PyDict fields = new PyDict();
        List<PyEntries.Entry> both = new ArrayList<>();
        both.add(new PyEntries.Entry(numel, PyInt.of(extent.elements())));
        both.add(numelFirst ? 1 : 0, new PyEntries.Entry(start, PyInt.of(extent.bucketStart())));
        both.forEach(e -> fields.entries().add(e.key(), e.value()));
        mapping
            .dictItems()
            .add(
                new PyStr(layout.parameters().get(extent.parameter()).name()),
                PyInstance.newObject(FRAGMENT_ADDRESS, fields));
      }
      return mapping;
    }
  }
}

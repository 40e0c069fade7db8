package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.deepspeed.Replicated;
import io.github.reshard.checkpoint.deepspeed.StateTensors;
import io.github.reshard.checkpoint.format.OtherViews;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.ParameterSet;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import io.github.reshard.checkpoint.torch.DType;
import io.github.reshard.checkpoint.torch.PickledValue;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What the shards of ZeRO-1 and 2 say, held against the layout that they should have. */
public final class FlatShards {
  private FlatShards() {}

  /**
   * Checks a shard against the layout and notes where its partitions are; {@link MuonMomentum} is
   * added by itself.
   */
  public static void addPartitions(
      DeepSpeedReading reading, Shard shard, int rank, List<FileGroup> groups) {
    OptimizerStates optimizer = shard.states();
    if (optimizer.groups() != groups.size()) {
      throw new RefusedException(
          shard.file().path(),
          "has %d param groups, the model file's param_shapes has %d."
              .formatted(optimizer.groups(), groups.size()));
    }
    requireEqual(
        optimizer,
        OptimizerFile.PARTITION_COUNT,
        optimizer.partitionCounts(),
        groups.stream().map(g -> (long) g.source().partitionCount(g.group())).toList());
    requireEqual(
        optimizer,
        OptimizerStates.GROUP_PADDINGS,
        optimizer.numbers(OptimizerStates.GROUP_PADDINGS),
        groups.stream()
            .map(
                g ->
                    optimizer.isBf16Optimizer()
                        ? g.source().paddingOnLastRank(rank, g.group())
                        : g.source().recordedPadding(rank, g.group()))
            .toList());
    ParameterAlignments.recorded(optimizer)
        .ifPresent(
            found ->
                requireEqual(
                    optimizer,
                    ParameterAlignments.KEY,
                    found,
                    groups.stream().map(g -> g.source().alignmentPaddings(g.group())).toList()));
    requireSliceMappings(optimizer, rank, groups);
    List<PickledValue> partitions = new ArrayList<>();
    for (int g = 0; g < groups.size(); g++) {
      ParameterSet set = groups.get(g).set();
      FlatLayout layout = groups.get(g).source();
      int group = groups.get(g).group();
      Map<String, DType> types = new LinkedHashMap<>();
      for (OptimizerStates.GroupTensor part : optimizer.tensors(g)) {
        TensorNode tensor = part.tensor();
        if (MuonMomentum.is(optimizer, g, part.state())) {
          partitions.add(part.value());
          continue;
        }
        if (Replicated.isReplicated(tensor)) {
          continue;
        }
        long padded = layout.bucketElements(group);
        long expected = part.cut() ? layout.cutElements(rank, group) : padded;
        if (tensor.shape().length != 1 || tensor.numel() != expected || !tensor.isContiguous()) {
          throw part.value()
              .refused(
                  "expected the %d elements of this rank's partition of param group %d, found a tensor of shape %s. State that is not one number for each weight is not supported."
                      .formatted(expected, g, Arrays.toString(tensor.shape())));
        }
        if (!StateTensors.isNumber(tensor.dtype())) {
          throw part.value()
              .refused(
                  "is of type %s, in which quantised states are saved. State that is not one number for each weight is not supported."
                      .formatted(tensor.dtype().torchName()));
        }
        partitions.add(part.value());
        types.put(part.state(), tensor.dtype());
        set.partitions()
            .put(
                new Partition(rank, group, part.state()),
                reading.address(shard.source(), shard.file(), part.value().where(), tensor));
      }
      if (set.states().size() == group) {
        set.states().add(types);
      } else if (!types.equals(set.states().get(group))) {
        throw new RefusedException(
            shard.file().path(),
            "param group %d has the states %s, on the first rank it has %s. The files are of different runs."
                .formatted(g, types, set.states().get(group)));
      }
    }
    OtherViews.requireNone(optimizer.root(), partitions);
    StateTensors.requireOthersReplicated(optimizer.stateDict(), partitions);
  }

  private static void requireEqual(
      OptimizerStates optimizer, String key, List<?> found, List<?> expected) {
    if (!found.equals(expected)) {
      throw optimizer
          .stateDict()
          .get(key)
          .refused(
              "expected %s from the model file's shapes and dp_world_size, found %s. The files do not belong together."
                  .formatted(expected, found));
    }
  }

  private static void requireSliceMappings(
      OptimizerStates optimizer, int rank, List<FileGroup> fileGroups) {
    if (optimizer.stateDict().findPresent(OptimizerStates.PARAM_SLICE_MAPPINGS).isEmpty()) {
      return;
    }
    List<PickledValue> groups =
        optimizer.stateDict().get(OptimizerStates.PARAM_SLICE_MAPPINGS).items();
    for (int g = 0; g < fileGroups.size(); g++) {
      FlatLayout layout = fileGroups.get(g).source();
      List<String> expected =
          layout.recordedExtentsIn(rank, fileGroups.get(g).group()).stream()
              .map(
                  (Extent e) ->
                      layout.parameters().get(e.parameter()).name()
                          + " start="
                          + e.bucketStart()
                          + " numel="
                          + e.elements())
              .toList();
      List<String> found = new ArrayList<>();
      for (PickledValue.Entry entry : groups.get(g).children()) {
        PyObject fields =
            entry.value().node() instanceof PyInstance made ? made.state() : entry.value().node();
        PickledValue address = new PickledValue(entry.value().file(), entry.value().path(), fields);
        found.add(
            entry.key()
                + " start="
                + address.get("start").asLong()
                + " numel="
                + address.get("numel").asLong());
      }
      if (!found.equals(expected)) {
        throw groups
            .get(g)
            .refused(
                "the slices are not those that follow from the model file: expected %s, found %s."
                    .formatted(firstDifferent(expected, found), firstDifferent(found, expected)));
      }
    }
  }

  private static String firstDifferent(List<String> of, List<String> other) {
    for (int i = 0; i < of.size(); i++) {
      if (i >= other.size() || !of.get(i).equals(other.get(i))) {
        return of.get(i);
      }
    }
    return "nothing more";
  }
}

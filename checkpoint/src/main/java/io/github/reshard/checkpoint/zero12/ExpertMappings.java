package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.DeepSpeedReading;
import io.github.reshard.checkpoint.deepspeed.DsVersion;
import io.github.reshard.checkpoint.deepspeed.OptimizerFile;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.util.List;
import java.util.Optional;

/**
 * What the shards of a mixture of experts that DeepSpeed before 0.19.3 saved record of their groups
 * ({@code param_slice_mappings}, {@code partition_count}), and whether that is right.
 *
 * @param shards of all ranks, in order
 */
record ExpertMappings(DeepSpeedReading reading, List<Shard> shards) {
  /** The first version whose mappings of experts' groups are right. */
  private static final DsVersion MENDED = new DsVersion(0, 14, 5);

  private OptimizerStates first() {
    return shards.get(0).states();
  }

  /**
   * @throws RefusedException if they are not there, or not of the same groups on all ranks
   */
  void require() {
    OptimizerStates first = first();
    ShardGroups.requireSameGroups(shards);
    for (Shard shard : shards) {
      PickledValue dict = shard.states().stateDict();
      if (dict.findPresent(OptimizerStates.PARAM_SLICE_MAPPINGS).isEmpty()) {
        throw new RefusedException(
            shard.file().path(),
            "has no param_slice_mappings, and the model file of this mixture of experts no"
                + " param_shapes, so nothing names the parameters. Load the checkpoint once with a"
                + " newer DeepSpeed at the same number of ranks, and save it again.");
      }
      for (String key :
          List.of(
              OptimizerStates.PARAM_SLICE_MAPPINGS,
              OptimizerStates.GROUP_PADDINGS,
              OptimizerFile.PARTITION_COUNT)) {
        PickledValue value = dict.get(key);
        if (value.isList() && value.items().size() != first.groups()) {
          throw value.refused(
              "expected one for each of %d param groups, found %d."
                  .formatted(first.groups(), value.items().size()));
        }
      }
      if (shard.states().groups() != first.groups()) {
        throw new RefusedException(
            shard.file().path(),
            "has %d param groups, the shard of rank 0 has %d. The files do not belong together."
                .formatted(shard.states().groups(), first.groups()));
      }
    }
  }

  /**
   * @throws RefusedException if another number of ranks shares a group than these say
   */
  void requireSharers(int group, int size) {
    OptimizerStates first = first();
    int sets = Math.max(1, size);
    long count = first.partitionCounts().get(group);
    if (shards.size() % sets != 0 || count != shards.size() / sets) {
      throw new RefusedException(
          shards.get(0).file().path(),
          "partition_count of param group %d is %d, but %d ranks with expert-parallel size %d saved it. Experts that span tensor-parallel ranks are not supported."
              .formatted(group, count, shards.size(), size));
    }
  }

  /**
   * Whether the mappings of experts' groups are cut by the ranks that share them. The first rank's
   * tell, but for groups so small that both ways give the same; then the version does.
   */
  boolean areRight(List<Integer> sizes, boolean dataFirst) {
    for (int g = 0; g < sizes.size(); g++) {
      if (sizes.get(g) > 1) {
        List<Shard> sharing = ShardGroups.sharing(shards, sizes.get(g), 0, dataFirst);
        FlatRow masters = FlatRow.masters(FlatRow.of(reading, sharing, g));
        long own = Math.min(masters.elements(), masters.partitionElements());
        long cut =
            Math.min(
                masters.elements(), masters.partitionElements() * sharing.size() / shards.size());
        long found = sharing.get(0).states().recordedElements(g);
        if (own != cut && (found == own || found == cut)) {
          return found == own;
        }
      }
    }
    return isAtLeast(MENDED) || first().isBf16Optimizer();
  }

  /** Whether DeepSpeed of this version, or a newer one, saved them. */
  boolean isAtLeast(DsVersion version) {
    PickledValue saidBy = first().stateDict().get("ds_version");
    Optional<DsVersion> saved = DsVersion.in(first().stateDict());
    if (saved.isEmpty()) {
      throw saidBy.refused(
          "expected the version of DeepSpeed, on which depends how experts are recorded, found "
              + saidBy.describe());
    }
    return !saved.get().isBefore(version);
  }
}

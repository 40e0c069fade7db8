package io.github.reshard.checkpoint.zero12;

import io.github.reshard.checkpoint.deepspeed.ReplicaComparison;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;

/**
 * What is not partitioned, which model-parallel ranks have to share where only some of it goes on.
 */
public final class SharedStates {
  private SharedStates() {}

  /**
   * Checks that files say the same beside their partitions.
   *
   * @param model index of the parameters
   * @param files the optimizer file of one data-parallel rank of each model-parallel rank
   * @throws io.github.reshard.checkpoint.RefusedException if not
   */
  static void requireAlike(PlanDraft draft, int model, List<ReadFile> files) throws IOException {
    requireAlike(draft, FlatLayout.of(draft.models().get(model).target().ofHolder(0)), files);
  }

  /**
   * The same, of files without Muon's momentum.
   *
   * @param layout of any of the ranks, as whose rank 0 all are seen
   */
  public static void requireAlike(PlanDraft draft, FlatLayout layout, List<ReadFile> files)
      throws IOException {
    List<FlatOptimizerRewrite.Group> groups = new ArrayList<>();
    for (int g = 0; g < layout.buckets(); g++) {
      groups.add(new FlatOptimizerRewrite.Group(layout, g, Set.of()));
    }
    ReplicaComparison comparison =
        new ReplicaComparison(
            draft.state().store(),
            draft.state().sources(),
            file -> FlatOptimizerRewrite.comparable(file, groups));
    for (int rank = 0; rank < files.size(); rank++) {
      comparison
          .add(rank, files.get(rank).source(), files.get(rank).file())
          .ifPresent(note -> draft.note("of the model-parallel ranks, " + note));
    }
  }
}

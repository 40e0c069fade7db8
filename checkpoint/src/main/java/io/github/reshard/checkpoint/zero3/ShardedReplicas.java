package io.github.reshard.checkpoint.zero3;

import io.github.reshard.checkpoint.deepspeed.ReplicaComparison;
import io.github.reshard.checkpoint.format.ModelPart;
import io.github.reshard.checkpoint.format.PlanDraft;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.util.IdentityHashMap;
import java.util.List;

/** Whether tensor-parallel ranks say the same of all that they do not partition. */
public final class ShardedReplicas {
  private ShardedReplicas() {}

  /**
   * Checks that they do: only what one of them says goes on.
   *
   * @param parts as they were read
   * @param target whose sub-groups all are seen with
   * @throws io.github.reshard.checkpoint.RefusedException if the optimizer's state differs
   */
  public static void requireAlike(PlanDraft draft, List<ModelPart> parts, ShardedLayout target)
      throws IOException {
    IdentityHashMap<TorchFile, ShardedLayout> layouts = new IdentityHashMap<>();
    for (ModelPart part : parts) {
      layouts.put(
          part.optimizers().get(0).file(), ((SavedSharded) part.origin().orElseThrow()).layout());
    }
    ReplicaComparison comparison =
        new ReplicaComparison(
            draft.state().store(),
            draft.state().sources(),
            file -> ShardedOptimizerRewrite.rewrite(file, layouts.get(file), target, List.of()));
    for (int rank = 0; rank < parts.size(); rank++) {
      ReadFile optimizer = parts.get(rank).optimizers().get(0);
      comparison.add(rank, optimizer.source(), optimizer.file()).ifPresent(draft::note);
    }
  }
}

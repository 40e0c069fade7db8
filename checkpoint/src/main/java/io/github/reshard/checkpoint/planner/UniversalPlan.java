package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.universal.UniversalFiles;
import java.util.ArrayList;
import java.util.List;

/** A plan of what a Universal Checkpoint is turned to. */
final class UniversalPlan {
  private UniversalPlan() {}

  /**
   * The same plan, for the tag that the Universal Checkpoint was made of, and without what its
   * files do not prove: they were put together of files that other names prove nothing of.
   */
  static ReshardPlan named(ReshardPlan plan) {
    return named(
        plan,
        List.of(
            "made of a Universal Checkpoint: that each of its files is of the parameter whose"
                + " folder it lies in is proven by shapes, and of the masters by the module's"
                + " weights where it has these"));
  }

  /**
   * The same.
   *
   * @param further what else the user should know
   */
  static ReshardPlan named(ReshardPlan plan, List<String> further) {
    String tag = UniversalFiles.nativeTag(plan.tag());
    List<TargetFile> targets = new ArrayList<>();
    for (TargetFile file : plan.targets()) {
      String path =
          file.path().startsWith(plan.tag() + "/")
              ? tag + file.path().substring(plan.tag().length())
              : file.path();
      targets.add(new TargetFile(path, file.bytes(), file.recipe(), file.entries()));
    }
    List<String> notes = new ArrayList<>(plan.notes());
    notes.addAll(further);
    List<Evidence> evidence = plan.evidence().stream().filter(one -> !one.isOfIdentity()).toList();
    return new ReshardPlan(
        plan.checkpoint(),
        tag,
        plan.sourceWorldSize(),
        plan.targetWorldSize(),
        plan.parallelism(),
        plan.sources(),
        targets,
        plan.models(),
        plan.carried(),
        plan.padding(),
        evidence,
        notes,
        plan.partBytes());
  }
}

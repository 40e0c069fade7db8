package io.github.reshard.runners;

import io.github.reshard.checkpoint.deepspeed.CheckpointFacts;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.plan.TargetFile;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.Leftovers;
import io.github.reshard.checkpoint.template.Contents;
import io.github.reshard.pipeline.ForeignInspection;
import io.github.reshard.pipeline.Inspection;
import io.github.reshard.pipeline.PlanReport;
import io.github.reshard.pipeline.VerifyReport;
import io.github.reshard.transforms.TensorVerdict;
import java.util.ArrayList;
import java.util.List;

/** What the commands beside the main job print. */
final class Tables {
  /** How many differences are worth a person's time. */
  private static final int MOST_ROWS = 20;

  private static final int LABEL_CHARS = 14;

  private Tables() {}

  static String of(Inspection inspection) {
    CheckpointFacts facts = inspection.facts();
    List<String> lines = new ArrayList<>();
    lines.add(inspection.name());
    row("what", "ZeRO-" + facts.stage() + " (" + facts.wrapper() + ")", lines);
    row("saved by", facts.deepspeed().isEmpty() ? "" : "DeepSpeed " + facts.deepspeed(), lines);
    row("ranks", ranks(inspection), lines);
    row("GPUs", inspection.grids(), lines);
    row(
        "parameters",
        inspection.parameters() == 0
            ? ""
            : Quantity.count(inspection.parameters())
                + ", "
                + Quantity.count(inspection.elements(), "element"),
        lines);
    row("weights", facts.dtype(), lines);
    row("optimizer", facts.optimizer(), lines);
    row("states", String.join(", ", inspection.states()), lines);
    rows(
        "groups",
        inspection.groups().stream()
            .map(
                group ->
                    "%s: %s, %s%s"
                        .formatted(
                            group.name(),
                            Quantity.count(group.parameters(), "parameter"),
                            Quantity.count(group.elements(), "element"),
                            group.settings().isEmpty() ? "" : "; " + group.settings()))
            .toList(),
        lines);
    row("steps", steps(facts), lines);
    row(
        "beside",
        facts.buffers() + facts.frozen() == 0
            ? ""
            : Quantity.count(facts.buffers(), "buffer")
                + ", "
                + Quantity.count(facts.frozen(), "frozen parameter"),
        lines);
    List<FileStat> files = inspection.allFiles();
    row(
        "size",
        Quantity.bytes(files.stream().mapToLong(FileStat::bytes).sum())
            + " in "
            + Quantity.count(files.size(), "file"),
        lines);
    rows("note", facts.oddities(), lines);
    if (inspection.plan() != null) {
      rows("", inspection.plan().notes(), lines);
    }
    row("refused", inspection.refusal(), lines);
    return String.join("\n", lines);
  }

  static String of(ForeignInspection inspection) {
    Contents contents = inspection.contents();
    List<String> lines = new ArrayList<>();
    lines.add(contents.name());
    row("what", inspection.what(), lines);
    rows(
        "keys",
        contents.parts().stream()
            .map(
                part ->
                    (part.word().isEmpty() ? "at the top" : part.word())
                        + ": "
                        + (part.tensors() == 0
                            ? ""
                            : "%s of %s, %s%s"
                                .formatted(
                                    Quantity.count(part.tensors(), "tensor"),
                                    Quantity.count(part.elements(), "element"),
                                    String.join(" and ", part.elementsByType().keySet()),
                                    part.objects() == 0 ? "" : "; "))
                        + (part.objects() == 0 ? "" : Quantity.count(part.objects(), "object")))
            .toList(),
        lines);
    row("chunks", "up to " + contents.mostChunks() + " a tensor", lines);
    row(
        "size",
        Quantity.bytes(contents.bytes()) + " in " + Quantity.count(contents.files(), "file"),
        lines);
    row("note", contents.remark(), lines);
    return String.join("\n", lines);
  }

  private static String ranks(Inspection inspection) {
    CheckpointFacts facts = inspection.facts();
    StringBuilder ranks = new StringBuilder(facts.dataParallelRanks() + " data-parallel");
    if (inspection.withTarget()) {
      ranks.append(" → ").append(inspection.plan().targetWorldSize()).append(" data-parallel");
    }
    return ranks.toString();
  }

  private static String steps(CheckpointFacts facts) {
    List<String> steps = new ArrayList<>();
    for (String key : List.of("global_steps", "skipped_steps", "global_samples")) {
      String found = facts.modelValues().get(key);
      if (found != null && !found.equals("None")) {
        steps.add(key + " " + found);
      }
    }
    String step = facts.optimizerValues().get("state.step");
    if (step != null) {
      steps.add("the optimizer's step " + step);
    }
    return String.join(", ", steps);
  }

  static String of(VerifyReport report) {
    List<String> lines = new ArrayList<>();
    long unequal = report.verdicts().stream().filter(v -> !v.equal()).count();
    lines.add(
        report.equal()
            ? "EQUAL: both hold the same training state"
            : "DIFFERENT: the two do not hold the same training state");
    row("--input", report.a() + ", " + ranks(report.ranksA()), lines);
    row("--output", report.b() + ", " + ranks(report.ranksB()), lines);
    row(
        "compared",
        "%s of %s, %s of them equal; %s read, %s"
            .formatted(
                Quantity.count(report.verdicts().size(), "tensor"),
                Quantity.count(
                    report.verdicts().stream().map(TensorVerdict::parameter).distinct().count(),
                    "parameter"),
                Quantity.count(report.verdicts().size() - unequal),
                Quantity.bytes(report.bytesRead()),
                Quantity.seconds(report.seconds())),
        lines);
    rows(
        "differs",
        report.verdicts().stream().filter(v -> !v.equal()).map(Tables::difference).toList(),
        lines);
    rows("shared", report.valueDifferences(), lines);
    rows("manifest", report.manifestDifferences(), lines);
    rows("note", report.notes(), lines);
    return String.join("\n", lines);
  }

  private static String difference(TensorVerdict verdict) {
    String what = "'%s' of %s: ".formatted(verdict.state(), verdict.parameter());
    return verdict.problem().isEmpty()
        ? what
            + "first at element %d: %s in --input, %s in --output"
                .formatted(verdict.element(), verdict.valueA(), verdict.valueB())
        : what + verdict.problem();
  }

  /** What was removed from {@code output}. */
  static String removed(String output, List<Leftovers.Removed> removed) {
    if (removed.isEmpty()) {
      return output + ": nothing is left over";
    }
    List<String> lines = new ArrayList<>();
    lines.add(
        "Removed %s in %s"
            .formatted(
                Quantity.bytes(removed.stream().mapToLong(Leftovers.Removed::bytes).sum()),
                Quantity.count(
                    removed.stream().mapToLong(Leftovers.Removed::files).sum(), "file")));
    removed.forEach(one -> lines.add("  " + one.where()));
    return String.join("\n", lines);
  }

  private static String ranks(int ranks) {
    return ranks == ReshardPlan.ANY_WORLD_SIZE
        ? "a distributed checkpoint"
        : ranks + " data-parallel ranks";
  }

  static String of(PlanReport report) {
    List<String> lines = new ArrayList<>();
    lines.add(
        "%s, %d → %s data-parallel ranks; nothing was touched"
            .formatted(
                report.plan().checkpoint(),
                report.plan().sourceWorldSize(),
                report.plan().targetWorldSize() == ReshardPlan.ANY_WORLD_SIZE
                    ? "any number of"
                    : Integer.toString(report.plan().targetWorldSize())));
    long parts = 0;
    for (TargetFile file : report.files()) {
      long ofFile = report.parts(file);
      parts += ofFile;
      lines.add(
          "  %12s  %6s  %s"
              .formatted(Quantity.bytes(file.bytes()), Quantity.count(ofFile), file.path()));
    }
    lines.add(
        "  %12s  %6s  parts in %s"
            .formatted(
                Quantity.bytes(report.plan().targetBytes()),
                Quantity.count(parts),
                Quantity.count(report.files().size(), "file")));
    row("GPUs", report.plan().grids(), lines);
    row(
        "memory",
        "%s for each worker thread, of which the plan is %s"
            .formatted(Quantity.bytes(report.workerBytes()), Quantity.bytes(report.planBytes())),
        lines);
    rows("note", report.plan().notes(), lines);
    if (report.tagIsThere()) {
      row("note", "the output already holds this tag: --overwrite would replace it", lines);
    }
    return String.join("\n", lines);
  }

  private static void rows(String name, List<String> values, List<String> lines) {
    String label = name;
    for (String value : values.subList(0, Math.min(MOST_ROWS, values.size()))) {
      row(label, value, lines);
      label = "";
    }
    if (values.size() > MOST_ROWS) {
      row("", "and %d more".formatted(values.size() - MOST_ROWS), lines);
    }
  }

  private static void row(String name, String value, List<String> lines) {
    if (!value.isEmpty()) {
      lines.add("  " + name + " ".repeat(Math.max(1, LABEL_CHARS - name.length())) + value);
    }
  }
}

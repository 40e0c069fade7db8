package io.github.reshard.runners;

import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.pipeline.ReshardReport;
import java.util.ArrayList;
import java.util.List;

/** What is said at the end of a run. */
final class Summary {
  private Summary() {}

  static String of(ReshardReport report) {
    List<String> lines = new ArrayList<>();
    lines.add("Resharded " + report.tag());
    lines.add(
        row(
            "ranks",
            report.targetWorldSize() == ReshardPlan.ANY_WORLD_SIZE
                ? report.sourceWorldSize() + " data-parallel ranks → any number"
                : report.sourceWorldSize() == ReshardPlan.ANY_WORLD_SIZE
                    ? "a distributed checkpoint → "
                        + report.targetWorldSize()
                        + " data-parallel ranks"
                    : report.sourceWorldSize()
                        + " → "
                        + report.targetWorldSize()
                        + " data-parallel ranks"));
    if (!report.grids().isEmpty()) {
      lines.add(row("GPUs", report.grids()));
    }
    lines.add(parameters(report));
    written(report, lines);
    return String.join("\n", lines);
  }

  /** Of a run that wrote weights. */
  static String ofExport(ReshardReport report) {
    List<String> lines = new ArrayList<>();
    lines.add("Exported " + report.tag());
    lines.add(
        row(
            "tensors",
            Quantity.count(report.parameters())
                + ", "
                + Quantity.count(report.elements(), "element")));
    written(report, lines);
    return String.join("\n", lines);
  }

  private static void written(ReshardReport report, List<String> lines) {
    lines.add(
        row(
            "bytes",
            Quantity.bytes(report.bytesRead())
                + " read, "
                + Quantity.bytes(report.bytesWritten())
                + " written to "
                + Quantity.count(report.files(), "file")));
    lines.add(
        row(
            "time",
            Quantity.seconds(report.seconds())
                + (report.seconds() > 0
                    ? ", " + Quantity.bytes(report.bytesWritten() / report.seconds()) + "/s"
                    : "")));
    lines.add(row("output", report.output()));
    rows("proven", report.proven(), lines);
    rows("note", report.notes(), lines);
  }

  private static String parameters(ReshardReport report) {
    return row(
        "parameters",
        Quantity.count(report.parameters()) + ", " + Quantity.count(report.elements(), "element"));
  }

  /** Of a run that only read and proved. */
  static String ofCheck(ReshardReport report) {
    List<String> lines = new ArrayList<>();
    boolean hasRanks = report.sourceWorldSize() > 0;
    lines.add(
        "Whole: "
            + report.tag()
            + (hasRanks ? " can be resharded" : " is a distributed checkpoint, for any ranks"));
    if (hasRanks) {
      lines.add(row("ranks", Quantity.count(report.sourceWorldSize(), "data-parallel rank")));
    }
    if (!report.grids().isEmpty()) {
      lines.add(row("GPUs", report.grids()));
    }
    if (hasRanks) {
      lines.add(parameters(report));
    }
    lines.add(row("bytes", Quantity.bytes(report.bytesRead()) + " read, nothing written"));
    lines.add(row("time", Quantity.seconds(report.seconds())));
    rows("proven", report.proven(), lines);
    rows("note", report.notes(), lines);
    return String.join("\n", lines);
  }

  private static void rows(String name, List<String> values, List<String> lines) {
    String label = name;
    for (String value : values) {
      lines.add(row(label, value));
      label = "";
    }
  }

  private static String row(String name, String value) {
    return "  " + name + " ".repeat(Math.max(1, 12 - name.length())) + value;
  }
}

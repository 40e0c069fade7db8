package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.dcp.DcpCheckpoint;
import io.github.reshard.checkpoint.dcp.DcpMetadata;
import io.github.reshard.checkpoint.dcp.DcpSources;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.checkpoint.state.DegreeChange;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;

/** Plans to read and prove a distributed checkpoint, whatever it is of, and to write nothing. */
public final class DcpCheck {
  private DcpCheck() {}

  /**
   * Plans it. Every object is read here, and every chunk of every tensor is a source of the plan.
   *
   * @param partBytes how many bytes are read in one piece
   * @throws RefusedException if it is not whole, contradicts itself, or holds what is not
   *     understood
   */
  public static ReshardPlan plan(SourceStore store, DcpCheckpoint dcp, long partBytes)
      throws IOException {
    Map<String, DcpMetadata.Item> items = dcp.items();
    Set<String> tensors = new TreeSet<>();
    Set<String> values = new TreeSet<>();
    items.forEach((key, item) -> (item instanceof DcpMetadata.Tensor ? tensors : values).add(key));
    dcp.values(store, values);
    DcpSources sources = DcpSources.read(store, dcp, tensors, 0);
    List<Evidence> evidence = new ArrayList<>();
    evidence.add(
        Evidence.ofAll(
            "the chunks of each of %d tensors hold every element once".formatted(tensors.size()),
            DcpMetadata.FILE_NAME,
            dcp.directories().size()));
    evidence.add(
        Evidence.ofAll(
            "each of %d objects is there, and its pickle is sound".formatted(values.size()),
            DcpMetadata.FILE_NAME,
            dcp.directories().size()));
    evidence.add(identity(dcp));
    Set<String> states =
        tensors.stream().filter(DcpCheck::isState).collect(Collectors.toCollection(TreeSet::new));
    sources.refuseCopies(store, states).ifPresent(evidence::add);
    return new ReshardPlan(
        dcp.path(),
        "",
        ReshardPlan.ANY_WORLD_SIZE,
        ReshardPlan.ANY_WORLD_SIZE,
        DegreeChange.NONE,
        sources.files(),
        List.of(),
        List.of(),
        List.of(),
        List.of(),
        evidence,
        List.of(),
        partBytes);
  }

  /** Of which data files it is proven that they lie under their own names. */
  static Evidence identity(DcpCheckpoint dcp) {
    List<String> untold =
        dcp.directories().stream()
            .filter(directory -> !directory.tellsFilesApart())
            .flatMap(directory -> directory.files().keySet().stream())
            .toList();
    int files = dcp.directories().stream().mapToInt(d -> d.files().size()).sum();
    return Evidence.identity("archive names", files - untold.size(), untold);
  }

  /** Whether it is what an optimizer keeps, by the name that every state dict of one has. */
  private static boolean isState(String key) {
    return key.startsWith("state.") || key.contains(".state.");
  }
}

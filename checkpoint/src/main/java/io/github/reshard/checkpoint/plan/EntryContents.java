package io.github.reshard.checkpoint.plan;

import io.github.reshard.checkpoint.state.Address;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.PartitionedModel;
import io.github.reshard.checkpoint.state.PartitionedModel.ModuleWeight;
import io.github.reshard.checkpoint.state.PartitionedModel.Partition;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** Whose bytes lie in an entry of a source file, for messages. */
public final class EntryContents {
  private static final int MOST_NAMED = 8;

  private EntryContents() {}

  /**
   * The parameters whose elements lie in the entry, with their states, in the order of the file.
   *
   * @param file index into {@link ReshardPlan#sources()}
   * @param entry index into that file's entries
   */
  public static List<String> of(ReshardPlan plan, int file, int entry) {
    List<String> contents = new ArrayList<>();
    for (PartitionedModel model : plan.models()) {
      for (Map.Entry<Partition, Address> partition : model.sourcePartitions().entrySet()) {
        Address at = partition.getValue();
        if (at.file() == file && at.entry() == entry) {
          Partition key = partition.getKey();
          int group = model.source().groupOf(key.bucket());
          for (Extent extent :
              model.sourceOf(group, key.state()).extentsIn(key.rank(), key.bucket())) {
            contents.add(
                "%s of %s, elements %d to %d"
                    .formatted(
                        key.state(),
                        model.id(plan.checkpoint(), extent.parameter()),
                        extent.parameterStart(),
                        extent.parameterStart() + extent.elements()));
          }
        }
      }
      for (int p = 0; p < model.weights().size(); p++) {
        ModuleWeight weight = model.weights().get(p);
        if (weight != null
            && weight.sources().stream()
                .filter(Objects::nonNull)
                .anyMatch(source -> source.file() == file && source.entry() == entry)) {
          contents.add("the weights of " + model.id(plan.checkpoint(), p));
        }
      }
    }
    return contents;
  }

  /** As a sentence that names the first few, or an empty text if no parameter lies there. */
  public static String sentence(ReshardPlan plan, int file, int entry) {
    List<String> contents = of(plan, file, entry);
    if (contents.isEmpty()) {
      return "";
    }
    String named = String.join("; ", contents.subList(0, Math.min(MOST_NAMED, contents.size())));
    int more = contents.size() - MOST_NAMED;
    return " In it lie: " + named + (more > 0 ? "; and %d more".formatted(more) : "") + ".";
  }
}

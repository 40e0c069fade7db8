package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.format.CheckpointReader;
import io.github.reshard.checkpoint.format.SourceReading;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.plan.Evidence;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;

/**
 * Reads a distributed checkpoint, whatever it is of: every object is read here, and every chunk of
 * every tensor is in a source of the state. Nothing in it says which tensor is a parameter and
 * which one a state of it, so the state has no parameters: who has a checkpoint of DeepSpeed beside
 * it knows ({@link TemplateWriter}, {@link DcpComparison}).
 */
final class DcpReader implements CheckpointReader {
  private final SourceStore store;
  private final DcpCheckpoint dcp;

  DcpReader(SourceStore store, DcpCheckpoint dcp) {
    this.store = store;
    this.dcp = dcp;
  }

  @Override
  public TrainingState read(int targetWorldSize) throws IOException {
    SourceReading reading = new SourceReading(store, dcp.path(), "");
    Map<String, DcpMetadata.Item> items = dcp.items();
    Set<String> tensors = new TreeSet<>();
    Set<String> values = new TreeSet<>();
    items.forEach((key, item) -> (item instanceof DcpMetadata.Tensor ? tensors : values).add(key));
    dcp.values(store, values);
    DcpSources sources = DcpSources.read(store, dcp, tensors, 0);
    sources.files().forEach(reading::addSource);
    reading.prove(
        Evidence.ofAll(
            "the chunks of each of %d tensors hold every element once".formatted(tensors.size()),
            DcpMetadata.FILE_NAME,
            dcp.directories().size()));
    reading.prove(
        Evidence.ofAll(
            "each of %d objects is there, and its pickle is sound".formatted(values.size()),
            DcpMetadata.FILE_NAME,
            dcp.directories().size()));
    reading.prove(identity(dcp));
    Set<String> states =
        tensors.stream().filter(DcpReader::isState).collect(Collectors.toCollection(TreeSet::new));
    sources.refuseCopies(store, states).ifPresent(reading::prove);
    return reading.state();
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

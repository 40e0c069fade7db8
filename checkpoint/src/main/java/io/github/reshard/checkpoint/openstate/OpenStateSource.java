package io.github.reshard.checkpoint.openstate;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.storage.ComposedStore;
import io.github.reshard.checkpoint.storage.ComposedStore.Composed;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.universal.UniversalFiles;
import io.github.reshard.checkpoint.universal.UniversalSource;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;

/**
 * An open training state, seen as the Universal Checkpoint that would hold the same: what lies in
 * safetensors is read as if it lay in that one's files, and all that is known of these holds for
 * it, proofs included. Only metadata is read.
 *
 * @param store reads it
 * @param files of the checkpoint that one data-parallel rank would have saved
 * @param stage the ZeRO stage of the run that it was made of
 * @param notes what the user should know
 */
public record OpenStateSource(
    SourceStore store, CheckpointFiles files, int stage, List<String> notes) {
  /** What is unusual about such a checkpoint. */
  public static final String ODDITY =
      "an open training state, which is shown as if one data-parallel rank had saved it:"
          + " optimizer.json, and tensors as safetensors";

  public OpenStateSource {
    notes = List.copyOf(notes);
  }

  /**
   * The open state in {@code directory}, if there is one.
   *
   * @throws RefusedException if there is one that is not whole, contradicts itself, or says not
   *     enough to make DeepSpeed's files of it
   */
  public static Optional<OpenStateSource> find(SourceStore store, String directory)
      throws IOException {
    Map<String, FileStat> files = new TreeMap<>();
    try {
      store.list(directory).files().forEach(file -> files.put(file.name(), file));
    } catch (NoSuchFileException | FileNotFoundException | NotDirectoryException e) {
      return Optional.empty(); // what else it may mean is found out by whoever asks
    }
    return files.containsKey(OpenFormat.JSON) && !files.containsKey("latest")
        ? Optional.of(of(store, directory, files))
        : Optional.empty();
  }

  private static OpenStateSource of(
      SourceStore store, String directory, Map<String, FileStat> files) throws IOException {
    FileStat json = files.get(OpenFormat.JSON);
    OpenState state = OpenState.parse(json.path(), OpenTensors.json(store, json));
    OpenTensors tensors = OpenTensors.read(store, directory, files);
    OpenDigests digests = OpenDigests.read(store, files);
    WholeState whole = new WholeState(state, tensors, digests);
    OneRank rank = new OneRank(whole);
    String tag = state.tag();
    Composed model = rank.modelFile();
    Composed shared = rank.optimizerFile();
    Map<String, Composed> states = rank.stateFiles();
    List<Composed> all = new ArrayList<>(List.of(model, shared));
    List<CheckpointFiles.Carried> others = new ArrayList<>();
    others.add(new CheckpointFiles.Carried(UniversalFiles.optimizer(tag), shared.stat()));
    states.forEach(
        (path, file) -> {
          all.add(file);
          others.add(new CheckpointFiles.Carried(path, file.stat()));
        });
    List<CheckpointFiles.Carried> beside = new ArrayList<>();
    files.forEach(
        (name, file) -> {
          if (!isOwn(name)) {
            beside.add(new CheckpointFiles.Carried(name, file));
          }
        });
    UniversalSource universal =
        UniversalSource.of(
            new ComposedStore(store, all),
            new CheckpointFiles(
                directory,
                tag,
                new TreeMap<>(Map.of(0, model.stat())),
                new TreeMap<>(),
                new TreeMap<>(),
                List.of(),
                List.of(),
                others,
                beside));
    return new OpenStateSource(universal.store(), universal.files(), state.stage(), whole.notes());
  }

  private static boolean isOwn(String name) {
    return name.equals(OpenFormat.JSON)
        || name.startsWith(CheckpointFiles.MANIFEST)
        || name.endsWith(".safetensors")
        || name.endsWith(".safetensors.index.json");
  }
}

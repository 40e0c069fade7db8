package io.github.reshard.checkpoint.planner;

import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.NamedFile;
import io.github.reshard.checkpoint.deepspeed.TensorRequest;
import io.github.reshard.checkpoint.json.Json;
import io.github.reshard.checkpoint.json.JsonAsPython;
import io.github.reshard.checkpoint.parallel.Division;
import io.github.reshard.checkpoint.parallel.ModelHeads;
import io.github.reshard.checkpoint.parallel.RuleFile;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import io.github.reshard.checkpoint.torch.PickledValue;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.stream.Stream;

/**
 * A number of tensor-parallel ranks, and what the user adds to what the checkpoint says.
 *
 * @param ranks how many there will be
 * @param rules a file of rules, or the name of one that comes with the program
 * @param heads the key-value heads of the model; 0 if its configuration says none
 * @param vocabularyMultiple {@code make_vocab_size_divisible_by} of Megatron
 * @param strips whether rows behind the end of a vocabulary go nowhere
 */
public record TensorHints(
    int ranks,
    Optional<String> rules,
    OptionalInt heads,
    OptionalInt vocabularyMultiple,
    boolean strips) {
  private static final long MOST_BYTES = 16L << 20;

  /** Ranks of a run, whose vocabulary is padded as the run pads it. */
  public TensorHints(
      int ranks, Optional<String> rules, OptionalInt heads, OptionalInt vocabularyMultiple) {
    this(ranks, rules, heads, vocabularyMultiple, false);
  }

  /** What is asked for, with what the files beside the checkpoint say. */
  TensorRequest request(SourceStore store, CheckpointFiles files) throws IOException {
    Optional<RuleFile> read = Optional.empty();
    if (rules.isPresent()) {
      read = Optional.of(rules(store, files, rules.get()));
    }
    OptionalInt said =
        heads.isPresent() ? heads : read.map(RuleFile::heads).orElse(OptionalInt.empty());
    OptionalInt multiple =
        vocabularyMultiple.isPresent()
            ? vocabularyMultiple
            : read.map(RuleFile::vocabularyMultiple).orElse(OptionalInt.empty());
    return new TensorRequest(
        ranks,
        read,
        said.isPresent() ? Division.Heads.of(said.getAsInt()) : headsBeside(store, files),
        multiple,
        strips);
  }

  private static RuleFile rules(SourceStore store, CheckpointFiles files, String named)
      throws IOException {
    if (RuleFile.NAMES.contains(named)) {
      return RuleFile.named(named);
    }
    FileStat stat = NamedFile.find(store, files.directory(), named, "--tpRules");
    return RuleFile.read(stat.path(), content(store, stat));
  }

  /** What {@code config.json} in the tag or beside it says. */
  private static Division.Heads headsBeside(SourceStore store, CheckpointFiles files)
      throws IOException {
    Optional<FileStat> config =
        Stream.concat(files.others().stream(), files.beside().stream())
            .map(CheckpointFiles.Carried::stat)
            .filter(stat -> stat.name().equals("config.json"))
            .findFirst();
    if (config.isEmpty()) {
      return Division.Heads.UNKNOWN;
    }
    String path = config.get().path();
    return ModelHeads.of(
        PickledValue.root(path, JsonAsPython.of(Json.parse(path, content(store, config.get())))));
  }

  private static ByteBuffer content(SourceStore store, FileStat stat) throws IOException {
    return store.read(stat, 0, Math.min(stat.bytes(), MOST_BYTES));
  }
}

package io.github.reshard.checkpoint.weights;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.json.Json;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.RangedFile;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * What a {@code config.json} of Transformers says of the weights beside it.
 *
 * @param path where it is, or an empty text if there is none
 * @param tied {@code tie_word_embeddings}, if it says so
 */
record ModelConfig(String path, Optional<Boolean> tied) {
  private static final int MOST_BYTES = 16 << 20;
  private static final String TIE = "tie_word_embeddings";

  /**
   * What language models call the weights of their output layer, at the end of the name
   * (Transformers 4.57, {@code _tied_weights_keys}).
   */
  private static final Set<String> OUTPUT =
      Set.of("lm_head.weight", "embed_out.weight", "cls.predictions.decoder.weight");

  /**
   * Reads it.
   *
   * @param beside the files beside the tag
   * @throws RefusedException if it is no JSON object
   */
  static ModelConfig read(SourceStore store, List<FileStat> beside) throws IOException {
    for (FileStat stat : beside) {
      if (!stat.name().equals("config.json")) {
        continue;
      }
      if (stat.bytes() > MOST_BYTES) {
        throw new RefusedException(
            stat.path(), "has %d bytes, which no configuration has.".formatted(stat.bytes()));
      }
      ByteBuffer content = ByteBuffer.allocate((int) stat.bytes());
      try (RangedFile file = store.open(stat)) {
        file.readFully(0, content);
      }
      if (!(Json.parse(stat.path(), content.flip()) instanceof Map<?, ?> config)) {
        throw new RefusedException(stat.path(), "expected a JSON object.");
      }
      Object said = config.get(TIE);
      return new ModelConfig(
          stat.path(), said instanceof Boolean b ? Optional.of(b) : Optional.empty());
    }
    return new ModelConfig("", Optional.empty());
  }

  /**
   * Checks that {@code from_pretrained} will tie what was tied in the run, and nothing else.
   *
   * @param names the tensors that are written
   * @param ties other names of parameters, and which parameter each names
   * @throws RefusedException if it would not: it leaves one of two weights out, or makes one up
   */
  void requireTied(String checkpoint, Collection<String> names, Map<String, String> ties) {
    if (tied.isEmpty()) {
      return;
    }
    for (String name : tied.get() ? names : ties.keySet()) {
      if (OUTPUT.stream().noneMatch(end -> name.equals(end) || name.endsWith("." + end))) {
        continue;
      }
      throw new RefusedException(
          path,
          tied.get()
              ? "says \"%s\": true, but in %s the weight %s is one of its own: from_pretrained would put the embedding in its place. Correct the file."
                  .formatted(TIE, checkpoint, name)
              : "says \"%s\": false, but in %s the weight %s is tied to %s and not saved twice: from_pretrained would make it up. Correct the file."
                  .formatted(TIE, checkpoint, name, ties.get(name)));
    }
  }
}

package io.github.reshard.pipeline;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.template.Contents;
import io.github.reshard.checkpoint.template.Foreign;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Optional;

/**
 * What a checkpoint of another trainer is, from its metadata alone.
 *
 * @param what it is, with its article
 * @param contents what it holds
 */
public record ForeignInspection(String what, Contents contents) {
  private static final ObjectMapper JSON =
      new ObjectMapper()
          .enable(SerializationFeature.INDENT_OUTPUT)
          .addMixIn(Contents.class, ForPeople.class);

  @JsonIgnoreProperties("remark")
  private interface ForPeople {}

  /**
   * Looks at {@code --input}, if it is a checkpoint of another trainer.
   *
   * @throws RefusedException if it is one that is not whole or not understood
   */
  public static Optional<ForeignInspection> of(CommandOptions options) {
    try {
      Optional<Source> source = Source.foreign(options.getInput(), options.getTag(), options);
      if (source.isEmpty()) {
        return Optional.empty();
      }
      Foreign foreign = source.get().found().foreign().orElseThrow();
      if (options.getHtml() != null) {
        throw new RefusedException(
            options.getInput(),
            "--html draws the ranks of a checkpoint of DeepSpeed; %s has none."
                .formatted(foreign.what()));
      }
      return Optional.of(new ForeignInspection(foreign.what(), foreign.contents()));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** For machines. */
  public String json() {
    try {
      return JSON.writeValueAsString(contents);
    } catch (JsonProcessingException e) {
      throw new UncheckedIOException(e);
    }
  }
}

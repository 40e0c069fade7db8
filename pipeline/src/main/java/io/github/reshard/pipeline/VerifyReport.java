package io.github.reshard.pipeline;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.github.reshard.transforms.TensorVerdict;
import java.io.UncheckedIOException;
import java.util.List;

/**
 * How two checkpoints compare.
 *
 * @param a the first one, as {@code input/tag}
 * @param b the second one
 * @param ranksA data-parallel ranks that saved the first one; 0 for a distributed checkpoint
 * @param ranksB data-parallel ranks that saved the second one; 0 for a distributed checkpoint
 * @param verdicts one for each state of each parameter, by parameter
 * @param valueDifferences what differs beside partitioned tensors, a sentence each
 * @param manifestDifferences tensors that are not what a manifest beside them says, a sentence each
 * @param notes what was checked, and what could not be, a sentence each
 * @param bytesRead bytes of tensors that were read from both
 * @param seconds wall time
 */
public record VerifyReport(
    String a,
    String b,
    int ranksA,
    int ranksB,
    List<TensorVerdict> verdicts,
    List<String> valueDifferences,
    List<String> manifestDifferences,
    List<String> notes,
    long bytesRead,
    double seconds) {
  public VerifyReport {
    verdicts = List.copyOf(verdicts);
    valueDifferences = List.copyOf(valueDifferences);
    manifestDifferences = List.copyOf(manifestDifferences);
    notes = List.copyOf(notes);
  }

  /** For machines. */
  public String json() {
    ObjectMapper json = new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);
    try {
      return json.writeValueAsString(json.<ObjectNode>valueToTree(this).put("equal", equal()));
    } catch (JsonProcessingException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Whether both hold the same training state, and what their manifests say. */
  public boolean equal() {
    return verdicts.stream().allMatch(TensorVerdict::equal)
        && valueDifferences.isEmpty()
        && manifestDifferences.isEmpty();
  }
}

package io.github.reshard.pipeline;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import java.io.UncheckedIOException;
import java.util.List;

/**
 * What a finished run did.
 *
 * @param tag the tag that was resharded or exported; where shards without a tag lie
 * @param sourceWorldSize data-parallel ranks that saved the input
 * @param targetWorldSize data-parallel ranks that will load the output
 * @param modelParallelRanks model-parallel ranks ({@code mp_rank_*}) of the output
 * @param pipelineDegree pipeline-parallel degree, or 0 when the checkpoint does not say
 * @param tensorDegree tensor-parallel degree, or 0 when the checkpoint does not say
 * @param grids the GPUs that saved and those that will load, if they are more than data-parallel
 *     ranks, else empty
 * @param parameters parameters, over all model-parallel ranks
 * @param elements elements of those parameters, each counted once, optimizer state not included
 * @param bytesRead bytes read from the source
 * @param bytesWritten bytes written to the output
 * @param files files written
 * @param seconds wall time in seconds
 * @param output where the output lies
 * @param proven what was proven, a sentence each
 * @param notes what the user should know, a sentence each
 */
public record ReshardReport(
    String tag,
    int sourceWorldSize,
    int targetWorldSize,
    int modelParallelRanks,
    int pipelineDegree,
    int tensorDegree,
    String grids,
    long parameters,
    long elements,
    long bytesRead,
    long bytesWritten,
    long files,
    double seconds,
    String output,
    List<String> proven,
    List<String> notes) {
  public ReshardReport {
    proven = List.copyOf(proven);
    notes = List.copyOf(notes);
  }

  /** For machines: the components of this record by name. */
  public String json() {
    return json(List.of(this));
  }

  /** For machines: a report, or a list of them where there are several. */
  public static String json(List<ReshardReport> reports) {
    try {
      return new ObjectMapper()
          .enable(SerializationFeature.INDENT_OUTPUT)
          .writeValueAsString(reports.size() == 1 ? reports.get(0) : reports);
    } catch (JsonProcessingException e) {
      throw new UncheckedIOException(e);
    }
  }
}

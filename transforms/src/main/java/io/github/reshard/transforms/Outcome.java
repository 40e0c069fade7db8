package io.github.reshard.transforms;

import io.github.reshard.checkpoint.plan.ParamId;
import java.io.Serializable;

/** Something that a job has come to know or has finished, on the way to the commit step. */
sealed interface Outcome extends Serializable {
  /**
   * The bytes of a source entry were read as they were saved.
   *
   * @param entry which one
   */
  record Proven(EntryId entry) implements Outcome {}

  /**
   * A target file is whole and durable.
   *
   * @param file index among the plan's targets
   */
  record Finished(int file) implements Outcome {}

  /**
   * What a full tensor holds.
   *
   * @param tensor which one
   * @param bytes its length
   * @param crc32 of its little-endian elements in C order
   */
  record Digest(TensorId tensor, long bytes, int crc32) implements Outcome {}

  /**
   * The master weights do not give the module's weights.
   *
   * @param parameter whose
   * @param element the first element of a slice that shows it
   */
  record Disagreement(ParamId parameter, long element) implements Outcome {}
}

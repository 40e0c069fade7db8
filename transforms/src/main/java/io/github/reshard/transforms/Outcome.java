package io.github.reshard.transforms;

import java.io.Serializable;
import java.util.List;

/** Something that a job has come to know or has finished, on the way to the commit step. */
sealed interface Outcome extends Serializable {
  /**
   * All bytes of a source file were read as they were saved.
   *
   * @param file index among the plan's sources
   */
  record Proven(int file) implements Outcome {}

  /**
   * A target file is whole and durable.
   *
   * @param file index among the plan's targets
   */
  record Finished(int file) implements Outcome {}

  /**
   * What some full tensors hold.
   *
   * @param key of their parameters, see {@link ParameterKeys}
   * @param crc32s for each tensor of the key, in the order of the plan, of its little-endian
   *     elements in C order
   * @param mismatches for each parameter whose master weights do not give the module's weights,
   *     where they are trusted all the same, one that shows it
   */
  record Digests(int key, List<Integer> crc32s, List<Mismatch> mismatches) implements Outcome {}

  /**
   * Master weights that do not give the module's weights.
   *
   * @param parameter the number of the parameter in the plan, see {@link PlanIndex.Place}
   * @param element the first element of a slice that shows it
   */
  record Mismatch(int parameter, long element) implements Serializable {}
}

package io.github.reshard.checkpoint.format;

import io.github.reshard.checkpoint.pickle.PyObject;
import java.util.List;

/**
 * What the file of a target rank says.
 *
 * @param root the object graph to pickle
 * @param storages the storages that it refers to, in the order of their keys "0", "1", ...
 */
public record Rewritten(PyObject root, List<Storage> storages) {
  /**
   * A storage of the file.
   *
   * @param key its key
   * @param bytes its length
   * @param content what is in it
   */
  public record Storage(String key, long bytes, Content content) {}

  /** What is in a storage. */
  public sealed interface Content {
    /**
     * A storage of the template, unchanged.
     *
     * @param sourceKey its key there
     */
    record Carried(String sourceKey) implements Content {}

    /**
     * Bytes of a storage of the template that are written elsewhere as well, where they are proven.
     *
     * @param sourceKey its key there
     * @param from where they begin in it, in bytes
     */
    record Copied(String sourceKey, long from) implements Content {}

    /**
     * This rank's partition of one state.
     *
     * @param group the param group of the file
     * @param state the state
     */
    record PartitionOf(int group, String state) implements Content {}

    /**
     * The flat buffer of a param group in the module's type.
     *
     * @param group the param group of the file
     */
    record FlatWeights(int group) implements Content {}

    /**
     * A module's weight that lies by itself.
     *
     * @param parameter its index among the parameters of the model
     */
    record Weight(int parameter) implements Content {}
  }
}

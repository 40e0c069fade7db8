package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.state.ModelParallelism;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Predicate;

/**
 * What a checkpoint says of itself beside its partitioned tensors, read leniently from the first
 * model file and the first optimizer file: for people to look at and for comparing two checkpoints,
 * not for writing one. Metadata only, and the few bytes of tensors that every rank holds alike.
 *
 * @param stage the ZeRO stage
 * @param wrapper DeepSpeed's optimizer class, as far as its files tell
 * @param optimizer the type that {@code ds_config} names, or empty
 * @param dtype the type of most module weights, or empty
 * @param deepspeed the version that saved it, or empty
 * @param dataParallelRanks {@code dp_world_size}
 * @param parallelism how GPUs share the model
 * @param buffers tensors of the module that it names as buffers
 * @param frozen frozen parameters
 * @param modelValues what the model file says: steps, scheduler, what the user added
 * @param optimizerValues hyper-parameters, loss scaler, and state that is one value for all
 *     elements
 * @param moduleTensors tensors of the module that are not trained, once each, with their type,
 *     shape and CRC-32
 * @param oddities what is unusual about it, a sentence each
 */
public record CheckpointFacts(
    int stage,
    String wrapper,
    String optimizer,
    String dtype,
    String deepspeed,
    int dataParallelRanks,
    ModelParallelism parallelism,
    int buffers,
    int frozen,
    SortedMap<String, String> modelValues,
    SortedMap<String, String> optimizerValues,
    SortedMap<String, String> moduleTensors,
    List<String> oddities) {
  /** Of a checkpoint that says nothing in DeepSpeed's words. */
  public static final CheckpointFacts NONE =
      new CheckpointFacts(
          0,
          "",
          "",
          "",
          "",
          0,
          ModelParallelism.NONE,
          0,
          0,
          new TreeMap<>(),
          new TreeMap<>(),
          new TreeMap<>(),
          List.of());

  private static final int LARGEST_TENSOR = 1 << 26;

  /**
   * Reads them.
   *
   * @throws RefusedException if there is no model or optimizer file, or one is no sound file
   */
  public static CheckpointFacts read(SourceStore store, CheckpointFiles files) throws IOException {
    return new FactsReading(store, files, new TensorText(store, LARGEST_TENSOR)).run();
  }

  /** As {@link #read}, with the CRC-32 of every tensor however large, to be compared. */
  public static CheckpointFacts readWhole(SourceStore store, CheckpointFiles files)
      throws IOException {
    return new FactsReading(store, files, new TensorText(store, Long.MAX_VALUE)).run();
  }

  /** The same with one more thing that is unusual about it. */
  public CheckpointFacts withOddity(String oddity) {
    List<String> all = new ArrayList<>(List.of(oddity));
    all.addAll(oddities);
    return with(moduleTensors, List.copyOf(all));
  }

  /** The same with other {@link #moduleTensors}. */
  public CheckpointFacts withModuleTensors(SortedMap<String, String> tensors) {
    return with(tensors, oddities);
  }

  /** The same without the values of the model file that {@code isOne} names. */
  public CheckpointFacts withoutValues(Predicate<String> isOne) {
    SortedMap<String, String> others = new TreeMap<>(modelValues);
    others.keySet().removeIf(isOne);
    return with(others, moduleTensors, oddities);
  }

  private CheckpointFacts with(SortedMap<String, String> tensors, List<String> unusual) {
    return with(modelValues, tensors, unusual);
  }

  private CheckpointFacts with(
      SortedMap<String, String> values, SortedMap<String, String> tensors, List<String> unusual) {
    return new CheckpointFacts(
        stage,
        wrapper,
        optimizer,
        dtype,
        deepspeed,
        dataParallelRanks,
        parallelism,
        buffers,
        frozen,
        values,
        optimizerValues,
        tensors,
        unusual);
  }

  /** Whether two checkpoints that say {@code value} may differ, as it was not looked at. */
  public static boolean isUnread(String value) {
    return value.endsWith(TensorText.NOT_READ);
  }
}

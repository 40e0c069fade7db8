package io.github.reshard.checkpoint.deepspeed;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.format.ReadFile;
import io.github.reshard.checkpoint.format.TrainingState;
import io.github.reshard.checkpoint.torch.TensorNode;
import io.github.reshard.checkpoint.torch.TorchFile;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.function.Function;

/** Tensors beside the trained weights, such as buffers, of which only some ranks' go on. */
public final class UncutTensors {
  private UncutTensors() {}

  /**
   * Checks that tensor-parallel ranks have the same buffers in their model files.
   *
   * @throws RefusedException if not
   */
  public static void requireBuffersAlike(TrainingState state, TensorParts of) throws IOException {
    requireAlike(
        state,
        of.sources().stream().map(part -> part.model().orElseThrow()).toList(),
        UncutTensors::buffers,
        TensorChange.AS_SAVED);
  }

  private static Map<String, TensorNode> buffers(ReadFile file) {
    ModelStates model = new ModelStates(file.root());
    Map<String, TensorNode> buffers = new TreeMap<>(model.module());
    buffers.keySet().retainAll(model.bufferNames());
    return buffers;
  }

  /**
   * Checks that tensor-parallel ranks have the same of them, bit for bit.
   *
   * @param files of each rank
   * @param tensors of a file by name
   * @param instead what to do where they have not, a sentence
   * @throws RefusedException if not
   */
  public static void requireAlike(
      TrainingState state,
      List<ReadFile> files,
      Function<ReadFile, Map<String, TensorNode>> tensors,
      String instead)
      throws IOException {
    ReadFile firstFile = files.get(0);
    Map<String, TensorNode> first = tensors.apply(firstFile);
    for (ReadFile file : files.subList(1, files.size())) {
      Map<String, TensorNode> others = tensors.apply(file);
      if (!others.keySet().equals(first.keySet())) {
        throw new RefusedException(
            file.file().path(),
            "has the buffers %s, and %s has %s. The files are of different runs."
                .formatted(others.keySet(), firstFile.file().path(), first.keySet()));
      }
      for (Map.Entry<String, TensorNode> one : first.entrySet()) {
        TensorNode other = others.get(one.getKey());
        if (other.dtype() != one.getValue().dtype()
            || !Arrays.equals(other.shape(), one.getValue().shape())
            || !content(state, firstFile, one.getValue()).equals(content(state, file, other))) {
          throw new RefusedException(
              file.file().path(),
              "%s is not what %s has. No rule says how tensor-parallel ranks share it, so it has to be the same on each. %s"
                  .formatted(one.getKey(), firstFile.file().path(), instead));
        }
      }
    }
  }

  private static Optional<ByteBuffer> content(TrainingState state, ReadFile file, TensorNode tensor)
      throws IOException {
    Optional<TorchFile.Entry> storage = file.file().storage(tensor.storageKey());
    if (tensor.numel() == 0 || storage.isEmpty()) {
      return Optional.empty();
    }
    long width = tensor.dtype().bytes();
    long from = tensor.isContiguous() ? tensor.storageOffset() * width : 0;
    long bytes = tensor.isContiguous() ? tensor.numel() * width : storage.get().bytes();
    return Optional.of(
        state
            .store()
            .read(
                state.sources().get(file.source()).stat(),
                storage.get().payloadOffset() + from,
                bytes));
  }
}

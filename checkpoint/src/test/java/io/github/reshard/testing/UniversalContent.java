package io.github.reshard.testing;

import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.torch.TensorNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;

/**
 * The files {@code zero/NAME/STATE.pt} of a Universal Checkpoint.
 *
 * @param zero the folder
 */
public record UniversalContent(Path zero) {
  private static final String TAG = "global_step3_universal";

  /** Those of the tag that all cases have. */
  public static UniversalContent of(Path checkpoint) {
    return new UniversalContent(checkpoint.resolve(TAG).resolve("zero"));
  }

  /** All of them, as {@code NAME/STATE.pt}. */
  public List<Path> states() {
    try (Stream<Path> files = Files.walk(zero)) {
      return files
          .filter(f -> f.toString().endsWith(".pt") && !f.getParent().equals(zero))
          .map(zero::relativize)
          .sorted()
          .toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** One of them. */
  public TorchContent read(Path state) {
    return TorchContent.read(zero.resolve(state));
  }

  /** The bytes of every state by {@code NAME/STATE.pt}. */
  public Map<String, byte[]> tensors() {
    Map<String, byte[]> tensors = new TreeMap<>();
    for (Path state : states()) {
      TorchContent file = read(state);
      // In a dict or, as the converter writes those of ZeRO-3 and steps, bare.
      TensorNode tensor =
          TensorNode.of(file.root() instanceof PyDict ? file.at("param") : file.root())
              .orElseThrow();
      tensors.put(state.toString(), file.tensor(tensor));
    }
    return tensors;
  }
}

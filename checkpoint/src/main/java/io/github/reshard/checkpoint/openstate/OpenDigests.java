package io.github.reshard.checkpoint.openstate;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.storage.FileStat;
import io.github.reshard.checkpoint.storage.SourceStore;
import java.io.IOException;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * The checksums of the tensors of an open state. Safetensors has none; the manifest that an export
 * leaves has (docs/manifest.md, {@code parameters}).
 */
final class OpenDigests {
  private final Map<List<String>, Digest> digests = new HashMap<>();

  private OpenDigests() {}

  /** A checksum, and the type of the elements that it is of. */
  private record Digest(String dtype, int crc32) {}

  /** Reads them; none where nobody left a manifest. */
  static OpenDigests read(SourceStore store, Map<String, FileStat> files) throws IOException {
    OpenDigests found = new OpenDigests();
    FileStat manifest = files.get(CheckpointFiles.MANIFEST);
    if (manifest == null) {
      return found;
    }
    Map<?, ?> root = OpenTensors.object(manifest.path(), OpenTensors.json(store, manifest));
    if (!(root.get("parameters") instanceof List<?> parameters)) {
      throw new RefusedException(manifest.path(), "expected a list of parameters.");
    }
    for (Object parameter : parameters) {
      Map<?, ?> of = OpenTensors.object(manifest.path(), parameter);
      Map<?, ?> states = OpenTensors.object(manifest.path(), of.get("states"));
      for (Map.Entry<?, ?> state : states.entrySet()) {
        Map<?, ?> digest = OpenTensors.object(manifest.path(), state.getValue());
        if (of.get("name") instanceof String name
            && digest.get("dtype") instanceof String dtype
            && digest.get("crc32") instanceof String crc32
            && crc32.matches("[0-9a-f]{8}")) {
          found.digests.put(
              List.of(name, (String) state.getKey()),
              new Digest(dtype, Integer.parseUnsignedInt(crc32, 16)));
        } else {
          throw new RefusedException(
              manifest.path(), "expected a name, types and checksums of each parameter.");
        }
      }
    }
    return found;
  }

  /** The checksum of a state of a parameter, if there is one of these very bytes. */
  Optional<Integer> of(String parameter, String state, OpenTensors.Tensor tensor) {
    return Optional.ofNullable(digests.get(List.of(parameter, state)))
        .filter(digest -> digest.dtype().equals(tensor.dtype().torchName()))
        .map(Digest::crc32);
  }
}

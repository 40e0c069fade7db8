package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.dcp.DcpMetadata.Chunk;
import io.github.reshard.checkpoint.dcp.DcpMetadata.Step;
import io.github.reshard.checkpoint.template.Contents;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** What a distributed checkpoint holds, from its {@code .metadata} alone. */
final class DcpContents {
  private static final String REMARK =
      "any number of FSDP ranks loads it as it is; DeepSpeed's files are made of it with"
          + " --template";
  private static final String FLAT =
      "it holds flat parameters of FSDP1's LOCAL_STATE_DICT, which mean something to as many ranks"
          + " of the same model only; nothing is made of it";

  private DcpContents() {}

  static Contents of(DcpCheckpoint dcp) {
    Map<String, List<DcpMetadata.Item>> byWord = new LinkedHashMap<>();
    int mostChunks = 0;
    int files = 0;
    long bytes = 0;
    for (DcpDirectory directory : dcp.directories()) {
      files += directory.files().size() + 1;
      bytes += directory.metadataFile().bytes();
      bytes += directory.files().values().stream().mapToLong(file -> file.bytes()).sum();
      for (Map.Entry<String, DcpMetadata.Item> item : directory.metadata().items().entrySet()) {
        byWord
            .computeIfAbsent(word(item.getKey(), directory.metadata()), any -> new ArrayList<>())
            .add(item.getValue());
        if (item.getValue() instanceof DcpMetadata.Tensor tensor) {
          mostChunks = Math.max(mostChunks, tensor.chunks().size());
        }
      }
    }
    List<Contents.Part> parts = new ArrayList<>();
    byWord.forEach((word, items) -> parts.add(part(word, items)));
    boolean flat = DcpKeys.flatParameter(dcp.items().keySet()).isPresent();
    return new Contents(dcp.path(), parts, mostChunks, files, bytes, flat ? FLAT : REMARK);
  }

  /** The first step of the path of a key; of an optimizer's also whether it is state or options. */
  private static String word(String key, DcpMetadata metadata) {
    List<Step> path = metadata.paths().getOrDefault(key, Step.keys(key.split("\\.", 2)));
    String first = text(path.get(0));
    if (path.size() == 1) {
      return "";
    }
    String second = text(path.get(1));
    for (String of : List.of("state", "param_groups")) {
      if (second.equals(of) || second.startsWith(of + ".")) {
        return first + "." + of;
      }
    }
    return first;
  }

  private static String text(Step step) {
    return step instanceof Step.Key key ? key.name() : "";
  }

  private static Contents.Part part(String word, List<DcpMetadata.Item> items) {
    int tensors = 0;
    long elements = 0;
    Map<String, Long> byType = new TreeMap<>();
    for (DcpMetadata.Item item : items) {
      if (item instanceof DcpMetadata.Tensor tensor) {
        tensors++;
        long of = tensor.chunks().stream().mapToLong(Chunk::elements).sum();
        elements += of;
        byType.merge(tensor.dtype().torchName(), of, Long::sum);
      }
    }
    return new Contents.Part(word, tensors, elements, byType, items.size() - tensors);
  }
}

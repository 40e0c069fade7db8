package io.github.reshard.pipeline.storage;

import static org.assertj.core.api.Assertions.assertThat;

import io.github.reshard.checkpoint.storage.Publishing;
import io.github.reshard.checkpoint.storage.TargetStore;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SortedMap;
import java.util.concurrent.ConcurrentSkipListMap;
import org.junit.jupiter.api.Test;

/**
 * In a bucket nothing makes all files visible at once, so the file that says that a distributed
 * checkpoint is whole comes after all that it names, and goes before any of them is replaced.
 */
class CommitMarkTest {
  private static final List<String> FILES =
      List.of("tag/model/__0_0.distcp", "tag/model/.metadata", "tag/__1_0.distcp", "tag/.metadata");

  private static void publish(Memory memory, boolean overwrite) throws IOException {
    ObjectTargetStore target =
        new ObjectTargetStore(
            memory, "out", "tag", TargetStore.LATEST_DCP, Publishing.of(overwrite));
    target.begin();
    for (String file : FILES) {
      String prefix =
          memory.list("out/.reshard-").stream()
              .map(ObjectStore.Found::name)
              .filter(name -> name.endsWith("/begun"))
              .map(name -> name.substring(0, name.length() - "begun".length()))
              .findFirst()
              .orElseThrow();
      memory.put(prefix + "files/" + file, file.getBytes(StandardCharsets.UTF_8));
    }
    memory.log.clear();
    List<String> paths = new ArrayList<>(FILES);
    paths.add("tag/reshard-manifest.json");
    target.publish(paths, "tag/reshard-manifest.json", new byte[0]);
  }

  @Test
  void theCommitMarkAppearsAfterAllThatItNames() throws IOException {
    Memory memory = new Memory();
    publish(memory, false);

    List<String> copied = memory.log.stream().filter(line -> line.startsWith("copy ")).toList();
    assertThat(copied.subList(0, 2))
        .containsExactlyInAnyOrder("copy out/tag/model/__0_0.distcp", "copy out/tag/__1_0.distcp");
    assertThat(copied.subList(2, 4))
        .containsExactlyInAnyOrder("copy out/tag/model/.metadata", "copy out/tag/.metadata");
    assertThat(memory.log.indexOf("put out/latest_dcp"))
        .isGreaterThan(memory.log.indexOf("copy out/tag/.metadata"));
  }

  @Test
  void anOldOneGoesBeforeAnythingIsReplaced() throws IOException {
    Memory memory = new Memory();
    publish(memory, false);
    publish(memory, true);

    int firstCopy =
        memory.log.indexOf(
            memory.log.stream().filter(line -> line.startsWith("copy ")).findFirst().orElseThrow());
    assertThat(memory.log.subList(0, firstCopy))
        .contains("delete out/tag/.metadata", "delete out/tag/model/.metadata");
  }

  /** A store that remembers what was done to it. */
  private static final class Memory implements ObjectStore {
    private static final long serialVersionUID = 1L;
    final transient SortedMap<String, byte[]> objects = new ConcurrentSkipListMap<>();
    final transient List<String> log = Collections.synchronizedList(new ArrayList<>());

    private Found found(String name) {
      return new Found(name, objects.get(name).length, "1", 0, Map.of());
    }

    @Override
    public List<Found> list(String prefix) {
      return objects.keySet().stream().filter(n -> n.startsWith(prefix)).map(this::found).toList();
    }

    @Override
    public Optional<Found> find(String name) {
      return objects.containsKey(name) ? Optional.of(found(name)) : Optional.empty();
    }

    @Override
    public Upload create(String name, Map<String, String> metadata) {
      throw new UnsupportedOperationException(name);
    }

    @Override
    public void put(String name, byte[] content) {
      log.add("put " + name);
      objects.put(name, content);
    }

    @Override
    public boolean putIfAbsent(String name, byte[] content) {
      return objects.putIfAbsent(name, content) == null;
    }

    @Override
    public boolean replace(Found old, byte[] content) {
      return objects.replace(old.name(), content) != null;
    }

    @Override
    public byte[] read(Found object) {
      return objects.get(object.name()).clone();
    }

    @Override
    public void concatenate(
        String name, List<Found> components, Map<String, String> metadata, String scratch) {
      throw new UnsupportedOperationException(name);
    }

    @Override
    public void copy(Found from, String to) {
      log.add("copy " + to);
      objects.put(to, objects.get(from.name()));
    }

    @Override
    public void delete(List<Found> found) {
      for (Found object : found) {
        log.add("delete " + object.name());
        objects.remove(object.name());
      }
    }

    @Override
    public String uri(String name) {
      return "memory://" + name;
    }
  }
}

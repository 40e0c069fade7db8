package io.github.reshard.checkpoint.storage;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.io.TempDir;

/** An output on the local disk, and a tag of it with a file, one beside it and a manifest. */
abstract class LocalStoresCase {
  static final String FILE = "step3/model.pt";
  static final String BESIDE = "trainer_state.json";
  static final String MANIFEST = "step3/manifest.json";
  static final List<String> PATHS = List.of(FILE, BESIDE, MANIFEST);

  @TempDir Path temp;
  Path output;

  @BeforeEach
  void nameOutput() {
    output = temp.resolve("output");
  }

  LocalTargetStore store(boolean overwrite) {
    return new LocalTargetStore(output.toString(), "step3", overwrite);
  }

  static ByteBuffer bytes(String text) {
    return ByteBuffer.wrap(text.getBytes(StandardCharsets.UTF_8));
  }

  static void write(TargetStore store, String path, String content) throws IOException {
    try (PositionalFile file = store.open(path)) {
      file.write(3, bytes(content.substring(3)));
      file.write(0, bytes(content.substring(0, 3)));
    }
    store.finish(path, content.length(), false);
  }

  static void writeAll(TargetStore store) throws IOException {
    write(store, FILE, "new model");
    write(store, BESIDE, "new state");
  }

  static void publish(TargetStore store) throws IOException {
    store.publish(PATHS, MANIFEST, "{}".getBytes(StandardCharsets.UTF_8));
  }

  /** The process that holds an output is gone: its lock names one that is not there. */
  static void dies(Path lock) throws IOException {
    if (Files.exists(lock)) {
      Files.writeString(lock, Files.readString(lock).replaceFirst("pid=\\d+", "pid=999999999"));
    }
  }

  void dies() throws IOException {
    dies(output.resolve(".reshard-step3.lock"));
  }

  static void run(TargetStore store) throws IOException {
    store.begin();
    writeAll(store);
    publish(store);
  }

  void assertPublished() {
    assertThat(output.resolve(FILE)).hasContent("new model");
    assertThat(output.resolve(BESIDE)).hasContent("new state");
    assertThat(output.resolve(MANIFEST)).hasContent("{}");
    assertThat(output.resolve("latest")).hasContent("step3");
    assertThat(output).isDirectoryNotContaining("glob:**/.reshard*");
  }

  void writeOldTag() throws IOException {
    Files.createDirectories(output.resolve("step3"));
    Files.writeString(output.resolve("step3/old.pt"), "old model");
    Files.writeString(output.resolve("latest"), "step3");
  }
}

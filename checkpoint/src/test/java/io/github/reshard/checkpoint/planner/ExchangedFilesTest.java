package io.github.reshard.checkpoint.planner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.deepspeed.CheckpointFiles;
import io.github.reshard.checkpoint.deepspeed.UserHints;
import io.github.reshard.checkpoint.pickle.PyDict;
import io.github.reshard.checkpoint.pickle.PyEntries;
import io.github.reshard.checkpoint.pickle.PyFloat;
import io.github.reshard.checkpoint.pickle.PyInstance;
import io.github.reshard.checkpoint.pickle.PyInt;
import io.github.reshard.checkpoint.pickle.PyList;
import io.github.reshard.checkpoint.pickle.PyObject;
import io.github.reshard.checkpoint.pickle.PyStr;
import io.github.reshard.checkpoint.plan.ReshardPlan;
import io.github.reshard.testing.CheckpointComparison;
import io.github.reshard.testing.GoldenCase;
import io.github.reshard.testing.Scratch;
import io.github.reshard.testing.WithoutBeam;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Every checkpoint with files of one kind exchanged, copied over each other, renamed, dropped and
 * taken from an earlier step: refused, or resharded into what the undamaged one gives.
 */
class ExchangedFilesTest {
  /** Of each kind, and pairs of them. */
  private static final int MOST_FILES = 4;

  private static final Path TESTDATA = Path.of(System.getProperty("reshard.testdata"));
  private static final Map<String, AtomicInteger> FIGURES = new TreeMap<>();

  @TempDir Path temp;

  /** A checkpoint to be damaged. */
  private record Victim(String name, Path source, String tag, int worldSize, boolean user) {
    Path files(Path input) {
      return user ? input : input.resolve(tag);
    }

    ReshardPlan reshard(Path input, Path output) {
      if (!user) {
        return WithoutBeam.reshard(input, output, worldSize);
      }
      Path model = input.resolve("pytorch_model.bin");
      Optional<String> beside =
          Files.exists(model) ? Optional.of("pytorch_model.bin") : Optional.empty();
      return WithoutBeam.reshardShards(
          input,
          output,
          worldSize,
          new UserHints(beside, Optional.empty(), Optional.empty(), false, false));
    }

    @Override
    public String toString() {
      return name;
    }
  }

  static Stream<Arguments> victims() {
    List<Arguments> victims = new ArrayList<>();
    for (GoldenCase golden : GoldenCase.all()) {
      victims.add(
          arguments(
              new Victim(
                  golden.name(),
                  golden.source(),
                  golden.tag(),
                  golden.expertParallelSize(),
                  false)));
    }
    for (String name : directories(TESTDATA.resolve("usershards"))) {
      victims.add(
          arguments(
              new Victim(
                  "usershards/" + name,
                  TESTDATA.resolve("usershards").resolve(name).resolve("user"),
                  "",
                  2,
                  true)));
    }
    return victims.stream();
  }

  private static List<String> directories(Path parent) {
    try (Stream<Path> children = Files.list(parent)) {
      return children
          .filter(Files::isDirectory)
          .map(child -> child.getFileName().toString())
          .sorted()
          .toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @ParameterizedTest
  @MethodSource("victims")
  void isRefusedOrRight(Victim victim) throws IOException {
    new Damaging(victim, temp).all();
  }

  @AfterAll
  static void sayWhatWasTried() {
    FIGURES.forEach((what, count) -> System.out.printf("exchanged: %s: %d%n", what, count.get()));
  }

  private static void count(String what) {
    FIGURES.computeIfAbsent(what, k -> new AtomicInteger()).incrementAndGet();
  }

  private interface Change {
    void to(Path files) throws IOException;
  }

  private static final class Damaging {
    private final Victim victim;
    private final Path temp;
    private final SortedMap<String, String> right;
    private final List<String> wrong = new ArrayList<>();
    private int tries;

    Damaging(Victim victim, Path temp) {
      this.victim = victim;
      this.temp = temp;
      Path output = temp.resolve("right");
      ReshardPlan plan = victim.reshard(victim.source(), output);
      right = contents(output);
      assertThat(plan.evidence().get(0).claim()).contains("its name says");
      assertThat(plan.evidence().get(0).without()).isEmpty();
    }

    private static SortedMap<String, String> contents(Path output) {
      SortedMap<String, String> contents = Scratch.contents(output);
      contents.keySet().removeIf(name -> name.endsWith(CheckpointFiles.MANIFEST));
      return contents;
    }

    void all() throws IOException {
      Path anonymous = linkTree(victim.source(), temp.resolve("anonymous"));
      for (List<String> alike : kinds()) {
        for (String name : alike) {
          Path file = victim.files(anonymous).resolve(name);
          replace(file.toRealPath(), file);
          Scratch.rename(file, "archive");
        }
      }
      for (List<String> alike : kinds()) {
        for (int a = 0; a < alike.size(); a++) {
          String first = alike.get(a);
          attempt("drop " + first, files -> Files.delete(files.resolve(first)));
          attempt("stale " + first, files -> makeStale(files.resolve(first)));
          for (int b = 0; b < alike.size(); b++) {
            if (a == b) {
              continue;
            }
            String second = alike.get(b);
            if (a < b) {
              attempt(
                  "exchange %s and %s".formatted(first, second),
                  files -> exchange(files.resolve(first), files.resolve(second)));
              attempt(
                  anonymous,
                  "exchange-without-names %s and %s".formatted(first, second),
                  files -> exchange(files.resolve(first), files.resolve(second)));
            }
            attempt(
                "copy %s over %s".formatted(first, second),
                files -> replace(files.resolve(first), files.resolve(second)));
            attempt(
                "rename %s to %s".formatted(first, second),
                files -> {
                  replace(files.resolve(first), files.resolve(second));
                  Files.delete(files.resolve(first));
                });
            attempt(
                "resave %s over %s".formatted(first, second),
                files -> resave(files.resolve(first), files.resolve(second)));
          }
        }
      }
      assertThat(wrong).isEmpty();
    }

    private static void exchange(Path first, Path second) throws IOException {
      Path aside = first.resolveSibling("x");
      Files.move(first, aside);
      Files.move(second, first);
      Files.move(aside, second);
    }

    private static void replace(Path from, Path to) throws IOException {
      Files.delete(to);
      Files.copy(from, to);
    }

    /** As {@code torch.save(torch.load(from), to)}: the archive has the name of the new file. */
    private static void resave(Path from, Path to) throws IOException {
      replace(from, to);
      String name = to.getFileName().toString();
      Scratch.rename(to, name.substring(0, name.lastIndexOf('.')));
    }

    /** The torch files by kind, no more than some of each. */
    private List<List<String>> kinds() {
      Map<String, List<String>> kinds = new TreeMap<>();
      for (String name : CheckpointComparison.fileNames(victim.files(victim.source()))) {
        if (name.endsWith(".pt")) {
          kinds.computeIfAbsent(name.replaceAll("\\d+", "*"), k -> new ArrayList<>()).add(name);
        }
      }
      return kinds.values().stream()
          .map(names -> names.subList(0, Math.min(MOST_FILES, names.size())))
          .toList();
    }

    private void attempt(String what, Change damage) throws IOException {
      attempt(victim.source(), what, damage);
    }

    private void attempt(Path source, String what, Change damage) throws IOException {
      Path input = temp.resolve("input-" + tries);
      Path output = temp.resolve("output-" + tries++);
      linkTree(source, input);
      damage.to(victim.files(input));
      String kind = what.substring(0, what.indexOf(' '));
      try {
        ReshardPlan plan = victim.reshard(input, output);
        boolean said = saysSo(kind, what, plan);
        if (contents(output).equals(right)) {
          count(kind + ": right");
        } else if (said) {
          count(kind + ": said to be not proven");
        } else {
          wrong.add(what + ": " + plan.notes());
        }
      } catch (RefusedException e) {
        count(kind + ": refused");
      } finally {
        remove(input);
        remove(output);
      }
    }
  }

  /** Whether the plan says of itself that it does not prove what was damaged. */
  private static boolean saysSo(String kind, String what, ReshardPlan plan) {
    return switch (kind) {
      case "stale" ->
          plan.evidence().stream().anyMatch(e -> e.whyNot().contains("counts no steps"));
      // ZeRO-3 keeps no weights that the masters could be compared with.
      case "exchange-without-names" ->
          plan.notes().stream().anyMatch(note -> note.contains("not by their values"))
              && plan.evidence().stream().anyMatch(e -> e.whyNot().contains("archives"));
      // What a user put into each rank's model file is of this rank; nothing else says so.
      case "resave" ->
          what.endsWith("model_states.pt")
              && plan.notes().stream().anyMatch(n -> n.contains("other values than rank 0"));
      default -> false;
    };
  }

  /** The same files as links, which cost nothing and may be replaced. */
  private static Path linkTree(Path from, Path to) throws IOException {
    try (Stream<Path> all = Files.walk(from)) {
      for (Path path : all.toList()) {
        Path link = to.resolve(from.relativize(path).toString());
        if (Files.isDirectory(path)) {
          Files.createDirectories(link);
        } else {
          Files.createSymbolicLink(link, path.toRealPath());
        }
      }
    }
    return to;
  }

  private static void remove(Path directory) {
    if (!Files.exists(directory)) {
      return;
    }
    try (Stream<Path> all = Files.walk(directory)) {
      for (Path path : all.sorted(Comparator.reverseOrder()).toList()) {
        Files.delete(path);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** Makes of a file what it was a step before: all counters are less, all numbers others. */
  private static void makeStale(Path file) throws IOException {
    byte[] content = Files.readAllBytes(file);
    Files.delete(file);
    Files.write(file, content);
    Scratch.rewrite(
        file,
        root -> lessSteps(root, 0),
        (key, bytes) -> {
          if (bytes.length <= 8) {
            if (bytes.length == 4) { // a step of 3, in float32
              bytes[2] ^= 0x40;
            }
          } else {
            for (int i = 1; i < bytes.length; i += 4) {
              bytes[i] ^= 1;
            }
          }
        });
  }

  private static void lessSteps(PyObject node, int depth) {
    if (depth > 6) {
      return;
    }
    if (node instanceof PyDict dict) {
      lessSteps(dict.entries(), depth);
    } else if (node instanceof PyInstance instance && instance.isOf("collections", "OrderedDict")) {
      lessSteps(instance.dictItems(), depth);
    } else if (node instanceof PyList list) {
      list.items().forEach(item -> lessSteps(item, depth + 1));
    }
  }

  private static void lessSteps(PyEntries entries, int depth) {
    for (PyEntries.Entry entry : List.copyOf(entries.list())) {
      if (entry.key() instanceof PyStr key
          && List.of("step", "global_steps", "global_samples").contains(key.value())) {
        if (entry.value() instanceof PyInt count) {
          entries.replace(key.value(), PyInt.of(count.value().intValue() - 1));
        } else if (entry.value() instanceof PyFloat count) {
          entries.replace(key.value(), new PyFloat(count.value() - 1));
        }
      } else {
        lessSteps(entry.value(), depth + 1);
      }
    }
  }
}

package io.github.reshard.testing;

import com.sun.source.tree.ClassTree;
import com.sun.source.tree.CompilationUnitTree;
import com.sun.source.util.DocTrees;
import com.sun.source.util.JavacTask;
import com.sun.source.util.TreePathScanner;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;
import javax.lang.model.element.Modifier;
import javax.tools.JavaCompiler;
import javax.tools.StandardJavaFileManager;
import javax.tools.ToolProvider;

/** The Java sources of all modules. */
final class Sources {
  static final Path ROOT =
      Path.of(System.getProperty("reshard.testdata")).toAbsolutePath().normalize().getParent();

  static final List<String> MODULES = List.of("checkpoint", "transforms", "pipeline", "runners");

  private Sources() {}

  /** The files below {@code src/KIND} of every module, {@code main} or {@code test} or other. */
  static List<Path> of(String kind) {
    List<Path> sources = new ArrayList<>();
    for (String module : MODULES) {
      Path root = ROOT.resolve(module).resolve("src").resolve(kind);
      if (Files.exists(root)) {
        try (Stream<Path> files = Files.walk(root)) {
          files.filter(file -> file.toString().endsWith(".java")).sorted().forEach(sources::add);
        } catch (IOException e) {
          throw new UncheckedIOException(e);
        }
      }
    }
    return sources;
  }

  /** The files of more than {@code most} lines, with how many they have. */
  static Map<String, Integer> longerThan(int most, List<Path> sources) {
    Map<String, Integer> longer = new TreeMap<>();
    for (Path source : sources) {
      try (Stream<String> lines = Files.lines(source)) {
        int count = (int) lines.count();
        if (count > most) {
          longer.put(ROOT.relativize(source).toString(), count);
        }
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
    return longer;
  }

  /** The public types, nested ones too, with no Javadoc; {@code FILE: Type}. */
  static List<String> publicTypesWithoutJavadoc(List<Path> sources) {
    List<String> without = new ArrayList<>();
    JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
    try (StandardJavaFileManager files = compiler.getStandardFileManager(null, null, null)) {
      JavacTask task =
          (JavacTask)
              compiler.getTask(
                  null, files, null, List.of(), null, files.getJavaFileObjectsFromPaths(sources));
      DocTrees docs = DocTrees.instance(task);
      for (CompilationUnitTree file : task.parse()) {
        new TreePathScanner<Void, Void>() {
          @Override
          public Void visitClass(ClassTree type, Void nothing) {
            if (type.getModifiers().getFlags().contains(Modifier.PUBLIC)
                && docs.getDocCommentTree(getCurrentPath()) == null) {
              without.add(
                  ROOT.relativize(Path.of(file.getSourceFile().toUri()))
                      + ": "
                      + type.getSimpleName());
            }
            return super.visitClass(type, null);
          }
        }.scan(file, null);
      }
      return without;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}

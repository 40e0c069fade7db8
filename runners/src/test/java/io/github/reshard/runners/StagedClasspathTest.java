package io.github.reshard.runners;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.File;
import java.lang.reflect.Method;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.beam.sdk.options.PipelineOptions;
import org.junit.jupiter.api.Test;

class StagedClasspathTest {
  /** As exec:java starts it: the program's loader has one above it that knows Maven's own jars. */
  @Test
  void underMavenTheProgramIsStagedAndNotMaven() throws Exception {
    List<URL> program = new ArrayList<>();
    for (String entry : System.getProperty("java.class.path").split(File.pathSeparator, -1)) {
      program.add(Path.of(entry).toUri().toURL());
    }
    for (Class<?> of : List.of(StagedClasspath.class, PipelineOptions.class)) {
      program.add(of.getProtectionDomain().getCodeSource().getLocation());
    }
    try (URLClassLoader maven =
            new URLClassLoader(
                new URL[] {Path.of("maven-core.jar").toUri().toURL()},
                ClassLoader.getPlatformClassLoader());
        URLClassLoader loader = new URLClassLoader(program.toArray(new URL[0]), maven)) {
      Method of =
          loader
              .loadClass(StagedClasspath.class.getName())
              .getDeclaredMethod("of", loader.loadClass(PipelineOptions.class.getName()));
      of.setAccessible(true);

      List<String> files = new ArrayList<>();
      ((List<?>) of.invoke(null, (Object) null)).forEach(file -> files.add((String) file));

      assertThat(files).hasSameSizeAs(program).noneMatch(file -> file.contains("maven-core"));
      assertThat(files).allMatch(file -> Path.of(file).isAbsolute());
    }
  }
}

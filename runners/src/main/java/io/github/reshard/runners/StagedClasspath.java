package io.github.reshard.runners;

import java.net.URI;
import java.net.URLClassLoader;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.util.construction.resources.PipelineResources;

/** What workers elsewhere need to run this program. */
final class StagedClasspath {
  private StagedClasspath() {}

  /** Jars and directories, as files. */
  static List<String> of(PipelineOptions options) {
    ClassLoader loader = StagedClasspath.class.getClassLoader();
    // Under Maven the loader's parents have Maven's own jars, which Beam would take too.
    return loader instanceof URLClassLoader urls
        ? Stream.of(urls.getURLs())
            .map(url -> Path.of(URI.create(url.toString())).toString())
            .toList()
        : PipelineResources.detectClassPathResourcesToStage(loader, options);
  }
}

package io.github.reshard.runners;

import io.github.reshard.pipeline.CommandOptions;
import java.io.IOException;
import java.net.URL;
import java.util.Collections;
import java.util.Enumeration;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.options.PipelineOptionsRegistrar;

/**
 * Which interfaces of options are registered with Beam.
 *
 * <p>Beam finds many on the classpath and holds each that it registers against all others ({@code
 * PipelineOptionsFactory} of Beam 2.70), which is a third of the time that options take to be
 * understood (docs/performance.md). A command line that has none of them does not need it: those
 * that the job itself asks for are held against one another when it asks.
 */
final class BeamRegistry {
  private static final String REGISTRARS =
      "META-INF/services/" + PipelineOptionsRegistrar.class.getName();

  /** Whether this program's were registered without those on the classpath. */
  private static boolean ownAlone;

  private BeamRegistry() {}

  /** Registers this program's options; nothing else, if Beam has registered nothing before. */
  static synchronized void registerOwn() {
    ownAlone = true;
    withoutOthers(() -> PipelineOptionsFactory.register(CommandOptions.class));
  }

  /** Registers this program's options and all that Beam finds on the classpath. */
  static synchronized void registerAll() {
    if (ownAlone) {
      PipelineOptionsFactory.resetCache();
      ownAlone = false;
    }
    PipelineOptionsFactory.register(CommandOptions.class);
  }

  /** Does something of Beam's, which finds no options on the classpath meanwhile. */
  static void withoutOthers(Runnable registration) {
    Thread thread = Thread.currentThread();
    ClassLoader loader = thread.getContextClassLoader();
    thread.setContextClassLoader(new WithoutRegistrars(loader));
    try {
      registration.run();
    } finally {
      thread.setContextClassLoader(loader);
    }
  }

  /** The classpath, but for the names of who registers options. */
  private static final class WithoutRegistrars extends ClassLoader {
    WithoutRegistrars(ClassLoader classpath) {
      super(classpath);
    }

    @Override
    public Enumeration<URL> getResources(String name) throws IOException {
      return name.equals(REGISTRARS) ? Collections.emptyEnumeration() : super.getResources(name);
    }
  }
}

package io.github.reshard.runners;

import java.lang.reflect.Method;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Stream;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;

/**
 * The names that a command line may have: this program's options, and those of Beam and of the
 * runners on the classpath.
 *
 * @param beam the Java types of the values of all that are Beam's to parse, by name
 */
record KnownOptions(Map<String, Class<?>> beam) {

  /** This program's options alone. */
  static KnownOptions own() {
    BeamRegistry.registerOwn();
    return new KnownOptions(Map.of());
  }

  /** All that Beam has registered; this program's options are registered on the way. */
  static KnownOptions registered() {
    BeamRegistry.registerAll();
    Map<String, Class<?>> all = new LinkedHashMap<>();
    addInherited(PipelineOptions.class, all);
    PipelineOptionsFactory.getRegisteredOptions().forEach(options -> addInherited(options, all));
    return new KnownOptions(all);
  }

  private static void addInherited(Class<?> options, Map<String, Class<?>> names) {
    add(List.of(options.getMethods()), names);
  }

  private static void add(Collection<Method> methods, Map<String, Class<?>> names) {
    for (Method method : methods) {
      if (method.getParameterCount() == 0 && method.getReturnType() != void.class) {
        String name = method.getName();
        if (name.startsWith("get") && name.length() > 3) {
          names.putIfAbsent(uncapitalized(name.substring(3)), method.getReturnType());
        } else if (name.startsWith("is") && name.length() > 2) {
          names.putIfAbsent(uncapitalized(name.substring(2)), method.getReturnType());
        }
      }
    }
  }

  /**
   * As {@code java.beans.Introspector.decapitalize}, which Beam names options by: URL stays URL.
   */
  private static String uncapitalized(String name) {
    if (name.length() > 1
        && Character.isUpperCase(name.charAt(0))
        && Character.isUpperCase(name.charAt(1))) {
      return name;
    }
    return name.substring(0, 1).toLowerCase(Locale.ROOT) + name.substring(1);
  }

  boolean contains(String name) {
    return Options.named(name).isPresent() || beam.containsKey(name);
  }

  boolean isFlag(String name) {
    Class<?> type = beam.get(name);
    return Options.named(name)
        .map(option -> option.kind() == Option.Kind.FLAG)
        .orElse(type == boolean.class || type == Boolean.class);
  }

  /** The known option that {@code name} was probably meant to be; own options win ties. */
  Optional<String> nearest(String name) {
    Stream<String> own = Options.all().stream().map(Option::name);
    return Spelling.nearest(name, Stream.concat(own, beam.keySet().stream()).distinct().toList());
  }
}

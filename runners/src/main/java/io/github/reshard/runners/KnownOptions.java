package io.github.reshard.runners;

import io.github.reshard.pipeline.CommandOptions;
import io.github.reshard.pipeline.ReshardOptions;
import java.lang.reflect.Method;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;

/**
 * The options that the command takes, by name, with the Java type of their values.
 *
 * @param own Reshard's options
 * @param all Reshard's options first, then those of Beam and of the runners on the classpath
 */
record KnownOptions(Map<String, Class<?>> own, Map<String, Class<?>> all) {

  /** What Beam has registered; the own options are registered on the way. */
  static KnownOptions registered() {
    PipelineOptionsFactory.register(CommandOptions.class);
    Map<String, Class<?>> own = new LinkedHashMap<>();
    addDeclared(ReshardOptions.class, own);
    addDeclared(CommandOptions.class, own);
    Map<String, Class<?>> all = new LinkedHashMap<>(own);
    addInherited(PipelineOptions.class, all);
    PipelineOptionsFactory.getRegisteredOptions().forEach(options -> addInherited(options, all));
    return new KnownOptions(own, all);
  }

  private static void addDeclared(Class<?> options, Map<String, Class<?>> names) {
    add(List.of(options.getDeclaredMethods()), names);
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
    return all.containsKey(name);
  }

  boolean isFlag(String name) {
    Class<?> type = all.get(name);
    return type == boolean.class || type == Boolean.class;
  }

  /** The known option that {@code name} was probably meant to be; own options win ties. */
  Optional<String> nearest(String name) {
    return Spelling.nearest(name, all.keySet());
  }
}

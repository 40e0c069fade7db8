package io.github.reshard.testing;

import static com.tngtech.archunit.library.dependencies.SlicesRuleDefinition.slices;
import static org.assertj.core.api.Assertions.assertThat;

import com.tngtech.archunit.core.domain.Dependency;
import com.tngtech.archunit.core.domain.JavaClass;
import com.tngtech.archunit.core.domain.JavaClasses;
import com.tngtech.archunit.core.importer.ClassFileImporter;
import com.tngtech.archunit.lang.syntax.ArchRuleDefinition;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;

/**
 * The rules of the house for the classes of one module, read off its class files. A nested class
 * counts as the outermost one around it.
 */
public final class Architecture {
  private static final String CHECKPOINT = "io.github.reshard.checkpoint";

  /** The packages of {@code checkpoint} that are a format each. */
  private static final List<String> FORMATS =
      List.of("zero12", "zero3", "dcp", "shards", "universal", "openstate", "weights");

  private final JavaClasses classes;
  private final String base;

  private Architecture(JavaClasses classes, String base) {
    this.classes = classes;
    this.base = base;
  }

  /** The module that {@code main}, a class of its main code, is of; its packages begin there. */
  public static Architecture ofModuleOf(Class<?> main) {
    try {
      Path root = Path.of(main.getProtectionDomain().getCodeSource().getLocation().toURI());
      return new Architecture(new ClassFileImporter().importPath(root), main.getPackageName());
    } catch (URISyntaxException e) {
      throw new IllegalStateException(e);
    }
  }

  /**
   * A package knows only what stands left of it, and every package has a place.
   *
   * @param layers names of packages below that of the module, which is itself {@code ""}
   */
  public void assertLayers(List<String> layers) {
    assertThat(packages()).as("the packages of %s", base).isEqualTo(new TreeSet<>(layers));
    for (int i = 0; i < layers.size(); i++) {
      for (String right : layers.subList(i + 1, layers.size())) {
        assertApart(layers.get(i), right);
      }
    }
  }

  /** The package {@code from} does not know {@code to}. */
  public void assertApart(String from, String to) {
    ArchRuleDefinition.noClasses()
        .that()
        .resideInAPackage(full(from))
        .should()
        .dependOnClassesThat()
        .resideInAPackage(full(to))
        .check(classes);
  }

  private String full(String name) {
    return name.isEmpty() ? base : base + "." + name;
  }

  /** The classes of the package {@code from} that know one of {@code to}. */
  public Set<String> whoKnows(String from, String to) {
    return classes.stream()
        .filter(of -> of.getPackageName().equals(full(from)))
        .filter(
            of ->
                of.getDirectDependenciesFromSelf().stream()
                    .map(d -> d.getTargetClass().getBaseComponentType().getPackageName())
                    .anyMatch(full(to)::equals))
        .map(of -> shortName(outermost(of)))
        .collect(Collectors.toCollection(TreeSet::new));
  }

  /**
   * No class of the module knows the package of a format, but for those that {@code reasons} name,
   * each of which does.
   *
   * @param reasons by class
   */
  public void assertKnowNoFormat(Map<String, String> reasons) {
    Set<String> formats =
        FORMATS.stream().map(name -> CHECKPOINT + "." + name).collect(Collectors.toSet());
    Set<String> found =
        classes.stream()
            .filter(of -> !formats.contains(of.getPackageName()))
            .filter(
                of ->
                    of.getDirectDependenciesFromSelf().stream()
                        .map(d -> d.getTargetClass().getBaseComponentType().getPackageName())
                        .anyMatch(formats::contains))
            .map(of -> shortName(outermost(of)))
            .collect(Collectors.toCollection(TreeSet::new));
    assertThat(found)
        .as("classes that know the package of a format; a new one needs a reason, a stale one goes")
        .isEqualTo(new TreeSet<>(reasons.keySet()));
  }

  /** No way leads from a package back to itself. */
  public void assertNoCircles() {
    slices().matching(parent() + "(**)").should().beFreeOfCycles().check(classes);
  }

  private String parent() {
    return base.substring(0, base.lastIndexOf('.') + 1);
  }

  private Set<String> packages() {
    return classes.stream()
        .map(JavaClass::getPackageName)
        .map(name -> name.equals(base) ? "" : name.substring(base.length() + 1))
        .collect(Collectors.toCollection(TreeSet::new));
  }

  /**
   * Two classes know each other only where {@code reasons} says why, and it says so only of pairs
   * that do.
   *
   * @param reasons by pair, {@code package.First <-> package.Second}, in the order of the alphabet
   */
  public void assertPairs(Map<String, String> reasons) {
    Set<String> arrows = new TreeSet<>();
    for (JavaClass of : classes) {
      for (Dependency dependency : of.getDirectDependenciesFromSelf()) {
        String from = outermost(dependency.getOriginClass());
        String to = outermost(dependency.getTargetClass());
        if (to.startsWith(base + ".") && !from.equals(to)) {
          arrows.add(from + " -> " + to);
        }
      }
    }
    List<String> pairs = new ArrayList<>();
    for (String arrow : arrows) {
      String[] ends = arrow.split(" -> ", -1);
      if (ends[0].compareTo(ends[1]) < 0 && arrows.contains(ends[1] + " -> " + ends[0])) {
        pairs.add(shortName(ends[0]) + " <-> " + shortName(ends[1]));
      }
    }
    assertThat(arrows).as("who knows whom").isNotEmpty();
    assertThat(pairs)
        .as("pairs of classes that know each other; a new one needs a reason, a stale one goes")
        .containsExactlyInAnyOrderElementsOf(reasons.keySet());
  }

  private String shortName(String name) {
    return name.substring(base.length() + 1);
  }

  private static String outermost(JavaClass of) {
    JavaClass at = of.isArray() ? of.getBaseComponentType() : of;
    while (at.getEnclosingClass().isPresent()) {
      at = at.getEnclosingClass().get();
    }
    String name = at.getName();
    int dollar = name.indexOf('$');
    return dollar < 0 ? name : name.substring(0, dollar);
  }
}

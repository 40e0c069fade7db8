package io.github.reshard.checkpoint.zero12;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.github.reshard.checkpoint.RefusedException;
import io.github.reshard.checkpoint.parallel.ExpertTarget;
import io.github.reshard.checkpoint.state.Parameter;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;
import java.util.Random;
import net.jqwik.api.Assume;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import org.junit.jupiter.api.Test;

class ExpertDegreeTest {
  private static final long DEFAULT = Filling.MAX_GROUP_ELEMENTS;

  /** A mixture: how many experts, and the elements of the parameters of each. */
  private record Mixture(int experts, List<Long> parameters) {}

  /**
   * What a script gives to the optimizer: groups of the parameters that it chose, such as weights
   * and biases, each divided as moe/utils.py does it.
   *
   * @param rules for each group the parameters of an expert that it has, by their number
   */
  private record Script(List<Mixture> mixtures, List<List<Integer>> rules, long most) {
    ParamGroups at(int size) {
      List<ParamGroups.Group> groups = new ArrayList<>();
      groups.add(new ParamGroups.Group(List.of(new Parameter("emb", List.of(7L), 0)), 0));
      for (List<Integer> rule : rules) {
        List<Parameter> open = new ArrayList<>();
        List<List<Parameter>> all = new ArrayList<>();
        long elements = 0;
        for (int m = 0; m < mixtures.size(); m++) {
          for (int e = 0; e < mixtures.get(m).experts() / size; e++) {
            for (int p : rule) {
              if (p >= mixtures.get(m).parameters().size()) {
                continue;
              }
              long own = mixtures.get(m).parameters().get(p);
              Parameter parameter = new Parameter(name(m, e, p), List.of(own), 0);
              if (elements + own <= most) {
                open.add(parameter);
                elements += own;
              } else {
                all.add(open);
                open = new ArrayList<>(List.of(parameter));
                elements = own;
              }
            }
          }
        }
        all.add(open);
        for (List<Parameter> group : all) {
          int number = groups.size();
          if (!group.isEmpty()) {
            groups.add(
                new ParamGroups.Group(
                    group.stream().map(p -> new Parameter(p.name(), p.shape(), number)).toList(),
                    size));
          }
        }
      }
      return new ParamGroups(groups, false, false);
    }

    static String name(int mixture, int expert, int parameter) {
      return "layer%d.deepspeed_moe.experts.deepspeed_experts.%d.p%d"
          .formatted(mixture, expert, parameter);
    }

    /** Whether a group has the options of the one before: those that one rule made. */
    boolean continues(ParamGroups groups, int group) {
      return group > 1 && rule(groups, group) == rule(groups, group - 1);
    }

    private int rule(ParamGroups groups, int group) {
      String name = groups.groups().get(group).parameters().get(0).name();
      int parameter = Integer.parseInt(name.substring(name.lastIndexOf('p') + 1));
      for (int r = 0; r < rules.size(); r++) {
        if (rules.get(r).contains(parameter)) {
          return r;
        }
      }
      throw new AssertionError(name);
    }

    /** As if the user said what the script's maximum is. */
    ExpertDegree told(int from, int to) {
      ParamGroups saved = at(from);
      return ExpertDegree.of(
          "ckpt",
          saved,
          new ExpertTarget(to, OptionalInt.of((int) most)),
          8,
          g -> continues(saved, g));
    }

    ExpertDegree turned(int from, int to, int worldSize) {
      ParamGroups saved = at(from);
      return ExpertDegree.of("ckpt", saved, sized(to), worldSize, g -> continues(saved, g));
    }
  }

  private static Script script(Random random, long unit) {
    List<Mixture> mixtures = new ArrayList<>();
    for (int m = 1 + random.nextInt(3); m > 0; m--) {
      List<Long> parameters = new ArrayList<>();
      for (int p = 1 + random.nextInt(3); p > 0; p--) {
        parameters.add(unit * (1 + random.nextInt(9)));
      }
      mixtures.add(new Mixture(random.nextBoolean() ? 4 : 8, parameters));
    }
    List<List<Integer>> rules =
        random.nextBoolean() ? List.of(List.of(0, 1, 2)) : List.of(List.of(0, 2), List.of(1));
    if (rules.size() > 1 && mixtures.stream().noneMatch(m -> m.parameters().size() > 1)) {
      rules = List.of(List.of(0, 1, 2));
    }
    return new Script(mixtures, rules, DEFAULT);
  }

  private static ExpertTarget sized(int size) {
    return new ExpertTarget(size, OptionalInt.empty());
  }

  private static int degree(Random random) {
    return 1 << random.nextInt(3);
  }

  @Property(tries = 500)
  void theGroupsAreThoseThatDeepSpeedMakesAtThatSize(@ForAll Random random) {
    Script script = script(random, random.nextBoolean() ? 1 : DEFAULT / 20);
    int from = degree(random);
    int to = degree(random);

    ExpertDegree turned = script.told(from, to);

    assertThat(turned.groups()).isEqualTo(script.at(to));
    ParamGroups saved = script.at(from);
    assertThat(turned.templates()).hasSize(turned.groups().groups().size()).startsWith(0);
    for (int g = 1; g < turned.templates().size(); g++) {
      assertThat(script.rule(saved, turned.templates().get(g)))
          .isEqualTo(script.rule(turned.groups(), g));
    }
  }

  @Property(tries = 500)
  void aMaximumOfTheScriptsOwnIsFoundOrRefusedAndNeverGuessed(@ForAll Random random) {
    Script usual = script(random, 40_000);
    Script script =
        new Script(usual.mixtures(), usual.rules(), 1_000_000 + random.nextInt(16_000_000));
    int from = degree(random);
    int to = degree(random);
    ExpertDegree turned;
    try {
      turned = script.turned(from, to, 8);
    } catch (RefusedException e) {
      assertThat(e).hasMessageContaining("group");
      return;
    }
    assertThat(turned.groups()).isEqualTo(script.at(to));
  }

  @Property(tries = 500)
  void aMaximumThatIsSaidGivesWhatTheScriptDoes(@ForAll Random random) {
    Script usual = script(random, 10);
    Script script = new Script(usual.mixtures(), usual.rules(), 30 + random.nextInt(400));
    int to = degree(random);
    try {
      assertThat(script.told(degree(random), to).groups()).isEqualTo(script.at(to));
    } catch (RefusedException e) {
      // One parameter that is larger than the maximum is a group like any other.
      assertThat(e).hasMessageContaining("group");
    }
  }

  @Test
  void aMaximumThatDoesNotGiveTheSourcesOwnGroupsIsRefused() {
    Script script = new Script(List.of(new Mixture(4, List.of(40L))), List.of(List.of(0)), 1_000);
    ParamGroups saved = script.at(1);

    assertThatThrownBy(
            () ->
                ExpertDegree.of(
                    "ckpt", saved, new ExpertTarget(2, OptionalInt.of(100)), 8, g -> false))
        .hasMessageContaining("--maxGroupSize=100")
        .hasMessageContaining("up to 160 elements");
  }

  @Test
  void howManyGroupsALargerRankHasIsNotGuessed() {
    Script script =
        new Script(List.of(new Mixture(4, List.of(400_000L))), List.of(List.of(0)), DEFAULT);

    assertThatThrownBy(() -> script.turned(2, 1, 8)).hasMessageContaining("--maxGroupSize");
    assertThat(script.told(2, 1).groups()).isEqualTo(script.at(1));
  }

  @Property(tries = 200)
  void thereAndBackIsNoChange(@ForAll Random random) {
    Script script = script(random, DEFAULT / 20);
    int from = degree(random);
    int to = degree(random);
    ParamGroups there = script.told(from, to).groups();
    Assume.that(from != to);

    assertThat(
            ExpertDegree.of(
                    "ckpt",
                    there,
                    new ExpertTarget(from, OptionalInt.of((int) DEFAULT)),
                    8,
                    g -> script.continues(there, g))
                .groups())
        .isEqualTo(script.at(from));
  }

  @Test
  void aSizeThatDoesNotDivideIsRefusedWithThoseThatDo() {
    Script script =
        new Script(
            List.of(new Mixture(4, List.of(3L)), new Mixture(8, List.of(3L))),
            List.of(List.of(0)),
            DEFAULT);

    assertThatThrownBy(() -> script.turned(2, 8, 8))
        .isInstanceOf(RefusedException.class)
        .hasMessageContaining("the number of experts of each mixture, [4, 8]")
        .hasMessageContaining("What fits is [1, 2, 4]");
    assertThatThrownBy(() -> script.turned(2, 4, 6))
        .hasMessageContaining("the data-parallel size of the target, 6. What fits is [1, 2]");
  }

  @Test
  void withoutExpertsThereIsNothingToDivide() {
    ParamGroups dense =
        new ParamGroups(
            List.of(new ParamGroups.Group(List.of(new Parameter("w", List.of(4L), 0)), 0)),
            false,
            false);

    assertThatThrownBy(() -> ExpertDegree.of("ckpt", dense, sized(1), 1, g -> true))
        .hasMessageContaining("has no experts");
  }

  @Test
  void twoSizesSideBySideAreRefused() {
    ParamGroups both =
        new ParamGroups(
            List.of(
                new ParamGroups.Group(
                    List.of(new Parameter(Script.name(0, 0, 0), List.of(4L), 0)), 2),
                new ParamGroups.Group(
                    List.of(new Parameter(Script.name(1, 0, 0), List.of(4L), 1)), 4)),
            false,
            false);

    assertThatThrownBy(() -> ExpertDegree.of("ckpt", both, sized(1), 4, g -> false))
        .hasMessageContaining("sizes [2, 4] side by side");
  }

  @Test
  void anOrderThatIsNotTheModulesIsRefused() {
    ParamGroups sorted =
        new ParamGroups(
            List.of(
                new ParamGroups.Group(
                    List.of(
                        new Parameter(Script.name(0, 0, 0), List.of(4L), 0),
                        new Parameter(Script.name(0, 1, 0), List.of(4L), 0),
                        new Parameter(Script.name(0, 0, 1), List.of(5L), 0),
                        new Parameter(Script.name(0, 1, 1), List.of(5L), 0)),
                    2)),
            false,
            false);

    assertThatThrownBy(() -> ExpertDegree.of("ckpt", sorted, sized(1), 4, g -> false))
        .hasMessageContaining("in another order than that of the module");
  }

  @Test
  void groupsOfTheSameOptionsThatMayBeOneAreRefused() {
    ParamGroups twoGroups =
        new ParamGroups(
            List.of(
                new ParamGroups.Group(
                    List.of(new Parameter(Script.name(0, 0, 0), List.of(4L), 0)), 2),
                new ParamGroups.Group(
                    List.of(new Parameter(Script.name(0, 0, 1), List.of(4L), 1)), 2)),
            false,
            false);

    assertThatThrownBy(() -> ExpertDegree.of("ckpt", twoGroups, sized(1), 4, g -> g == 1))
        .hasMessageContaining("nothing says whether they are one");
  }

  @Test
  void expertsOfOneMixtureWithOptionsOfTheirOwnAreRefused() {
    ParamGroups twoGroups =
        new ParamGroups(
            List.of(
                new ParamGroups.Group(
                    List.of(new Parameter(Script.name(0, 0, 0), List.of(4L), 0)), 2),
                new ParamGroups.Group(
                    List.of(new Parameter(Script.name(0, 1, 0), List.of(4L), 1)), 2)),
            false,
            false);

    assertThatThrownBy(() -> ExpertDegree.of("ckpt", twoGroups, sized(1), 4, g -> false))
        .hasMessageContaining("in param groups of different options");
  }
}

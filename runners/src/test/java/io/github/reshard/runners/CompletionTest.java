package io.github.reshard.runners;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

class CompletionTest {
  @TempDir Path scratch;

  @Test
  void exactlyTheOptionsThatNeedAValueHaveAWordForIt() {
    assertThat(Options.all())
        .allSatisfy(
            option ->
                assertThat(option.value().isEmpty()).isEqualTo(option.kind() == Option.Kind.FLAG));
  }

  @ParameterizedTest
  @EnumSource(Command.class)
  void theHelpOfACommandListsItsOptions(Command command) {
    List<String> lines = HelpText.of(command, "reshard").lines().toList();
    for (Option option : Options.of(command)) {
      assertThat(lines).anyMatch(line -> line.startsWith("  " + option.typed() + option.value()));
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "reshard in                  | inspect",
        "reshard --targetS           | --targetStage=",
        "reshard ensure --ke         | --keep=",
        "reshard cleanup --keep      | ''",
        "reshard --runner = F        | FlinkRunner",
        "reshard completion z        | zsh",
        "reshard doctor --input = ck | ckpt"
      })
  void bashCompletesCommandsOptionsAndValues(String words, String expected) throws Exception {
    Files.createDirectory(scratch.resolve("ckpt"));

    assertThat(completed(words.split(" "))).isEqualTo(expected);
  }

  private String completed(String... words) throws IOException, InterruptedException {
    Path script = scratch.resolve("completion.bash");
    Files.writeString(script, Completion.of("completion", "bash"));
    // Bash itself knows compopt only while it completes.
    Process bash =
        new ProcessBuilder(
                "bash",
                "-uc",
                "compopt() { :; }; . ./completion.bash; COMP_WORDS=(%s); COMP_CWORD=%d; _reshard; echo \"${COMPREPLY[*]}\""
                    .formatted(String.join(" ", Arrays.asList(words)), words.length - 1))
            .directory(scratch.toFile())
            .redirectErrorStream(true)
            .start();
    String said = new String(bash.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(bash.waitFor()).as(said).isEqualTo(0);
    return said.strip();
  }

  @Test
  void zshKnowsEveryCommandAndOption() {
    String script = Completion.of("completion", "zsh");

    assertThat(script).startsWith("#compdef reshard\n");
    for (Command command : Command.values()) {
      assertThat(script).contains("'" + command.word() + ":");
      for (Option option : Options.of(command)) {
        assertThat(script).contains("'" + option.typed());
      }
    }
  }

  @Test
  void anotherShellIsNamed() {
    assertThatThrownBy(() -> Completion.of("completion", "fish"))
        .isInstanceOf(UsageException.class)
        .hasMessageContaining("bash or zsh");
  }

  @Test
  void theManPageHasEveryCommandAndNoLineThatRoffWouldTakeForARequest() {
    String page = HelpText.man("1.0");

    assertThat(page).startsWith(".TH RESHARD 1 ").contains(".SH ENSURE\n", ".SH EXIT STATUS\n");
    assertThat(page.lines().filter(line -> line.startsWith(".") || line.startsWith("'")))
        .allMatch(line -> line.matches("\\.(TH|SH|TP|B|br|nf|fi)( .*)?"));
  }
}

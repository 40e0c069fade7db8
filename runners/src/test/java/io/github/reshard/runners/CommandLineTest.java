package io.github.reshard.runners;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class CommandLineTest {
  private static final KnownOptions KNOWN = KnownOptions.registered();

  @Test
  void takesValuesAfterAnEqualsSignOrASpace() {
    CommandLine line =
        CommandLine.parse(KNOWN, "--input=a dir/ckpt", "--output", "out", "--targetWorldSize=2");

    assertThat(line.command()).isEqualTo("reshard");
    assertThat(line.beamArgs())
        .containsExactly("--input=a dir/ckpt", "--output=out", "--targetWorldSize=2");
  }

  @Test
  void keepsEqualsSignsInsideAValue() {
    assertThat(CommandLine.parse(KNOWN, "--input=a=b").beamArgs()).containsExactly("--input=a=b");
  }

  @Test
  void aBareFlagIsTrueAndDoesNotEatTheNextOption() {
    assertThat(CommandLine.parse(KNOWN, "--overwrite", "--tag=t").beamArgs())
        .containsExactly("--overwrite=true", "--tag=t");
  }

  @Test
  void aFlagMayBeFollowedByItsValue() {
    assertThat(CommandLine.parse(KNOWN, "--overwrite", "false", "--debug", "true").beamArgs())
        .containsExactly("--overwrite=false", "--debug=true");
  }

  @Test
  void aFlagOfARunnerMayBeBareToo() {
    assertThat(CommandLine.parse(KNOWN, "--blockOnRun").beamArgs())
        .containsExactly("--blockOnRun=true");
  }

  @ParameterizedTest
  @CsvSource({
    "--input=a --output b --overwrite, true",
    "a b 4 --json, true",
    "--input=a --runner=DirectRunner, false",
    "--input=a --blockOnRun, false",
    "--input gs://b/a, false",
    "--outptu=a, false",
  })
  void tellsWhetherOnlyOwnOptionsAreAskedFor(String args, boolean own) {
    assertThat(CommandLine.hasOwnAlone(args.split(" "))).isEqualTo(own);
  }

  @Test
  void theCommandMayBeNamed() {
    assertThat(CommandLine.parse(KNOWN, "reshard", "--tag=t").beamArgs())
        .containsExactly("--tag=t");
  }

  @ParameterizedTest
  @CsvSource({
    "--targetWorldsize=2, --targetWorldSize",
    "--tagretWorldSize=2, --targetWorldSize",
    "--inptu=x, --input",
    "--ouput=x, --output",
    "--overwrit, --overwrite",
    "--trust-masters, --trustMasters",
    "--flinkmaster=x, --flinkMaster",
    "--targetParalelism=2, --targetParallelism"
  })
  void aTypoInAnOptionNamesTheOneThatWasMeant(String typo, String meant) {
    String name = typo.replaceAll("=.*", "");
    assertThatThrownBy(() -> CommandLine.parse(KNOWN, typo))
        .isInstanceOf(UsageException.class)
        .hasMessage("unknown option " + name + "; did you mean " + meant + "?");
  }

  @Test
  void anOptionThatIsNearNothingPointsToTheHelp() {
    assertThatThrownBy(() -> CommandLine.parse(KNOWN, "--xyzzyplugh=1"))
        .isInstanceOf(UsageException.class)
        .hasMessage("unknown option --xyzzyplugh; --help lists the options");
  }

  @Test
  void aTypoInACommandNamesTheOneThatWasMeant() {
    assertThatThrownBy(() -> CommandLine.parse(KNOWN, "reshrad", "--input=x"))
        .isInstanceOf(UsageException.class)
        .hasMessage("unknown command reshrad; did you mean reshard?");
  }

  @Test
  void namesOfInputAndOutputMayBeLeftOut() {
    assertThat(CommandLine.parse(KNOWN, "ckpt", "out", "--targetWorldSize=2").beamArgs())
        .containsExactly("--input=ckpt", "--output=out", "--targetWorldSize=2");
    assertThat(CommandLine.parse(KNOWN, "--tag", "t", "ckpt", "out").beamArgs())
        .containsExactly("--tag=t", "--input=ckpt", "--output=out");
    assertThat(CommandLine.parse(KNOWN, "verify", "a", "b").beamArgs())
        .containsExactly("--input=a", "--output=b");
    assertThat(CommandLine.parse(KNOWN, "inspect", "a").beamArgs()).containsExactly("--input=a");
    assertThat(CommandLine.parse(KNOWN, "cleanup", "a").beamArgs()).containsExactly("--output=a");
    assertThat(CommandLine.parse(KNOWN, "./plan", "--output=b").beamArgs())
        .containsExactly("--input=./plan", "--output=b");
  }

  @ParameterizedTest
  @ValueSource(strings = {"a b c", "inspect a b", "--input=a b c --tag=t", "--input=x a b"})
  void moreArgumentsThanHaveAPlaceAreRefused(String args) {
    assertThatThrownBy(() -> CommandLine.parse(KNOWN, args.split(" ")))
        .isInstanceOf(UsageException.class);
  }

  @Test
  void aMisspeltCommandIsNoPathEvenBeforeOne() {
    assertThatThrownBy(() -> CommandLine.parse(KNOWN, "insepct", "ckpt"))
        .hasMessage("unknown command insepct; did you mean inspect?");
  }

  @ParameterizedTest
  @CsvSource({
    "--targetWorldSize=two, '--targetWorldSize is a whole number, not ''two'''",
    "--targetWorldSize=2.5, '--targetWorldSize is a whole number, not ''2.5'''",
    "--targetWorldSize=3000000000, '--targetWorldSize is a whole number, not ''3000000000'''",
    "--overwrite=yes, '--overwrite is either true or false, not ''yes'''",
    "--input=, --input needs a value: --input=...",
    "--input, --input needs a value: --input=...",
    "--partBytes=64MB2, "
        + "'--partBytes is a number of bytes such as 67108864 or 64MiB, not ''64MB2'''",
    "--partBytes=-1, '--partBytes is a number of bytes such as 67108864 or 64MiB, not ''-1'''",
    "--partBytes=9999999T, --partBytes=9999999T is more than a file can hold",
    "-input=x, 'unexpected argument ''-input=x''; options start with --'"
  })
  void aValueThatCannotBeIsRefusedInOneLine(String arg, String message) {
    assertThatThrownBy(() -> CommandLine.parse(KNOWN, arg))
        .isInstanceOf(UsageException.class)
        .hasMessage(message);
  }

  @Test
  void anOptionIsNotAValue() {
    assertThatThrownBy(() -> CommandLine.parse(KNOWN, "--input", "--output=out"))
        .isInstanceOf(UsageException.class)
        .hasMessage("--input needs a value: --input=...");
  }

  @Test
  void anOptionGivenTwiceIsRefusedRatherThanGuessed() {
    assertThatThrownBy(() -> CommandLine.parse(KNOWN, "--input=a", "--input=b"))
        .isInstanceOf(UsageException.class)
        .hasMessage("--input is given twice");
  }

  @ParameterizedTest
  @CsvSource({"123, 123", "64MiB, 67108864", "64M, 67108864", "1GiB, 1073741824", "2K, 2048"})
  void sizesMayHaveUnits(String size, String bytes) {
    assertThat(CommandLine.parse(KNOWN, "--partBytes=" + size).beamArgs())
        .containsExactly("--partBytes=" + bytes);
  }

  @ParameterizedTest
  @ValueSource(strings = {"--help", "-h", "help"})
  void helpIsAskedForInTheUsualWays(String arg) {
    assertThat(CommandLine.asksForHelp(arg)).isTrue();
  }

  @Test
  void aDirectoryCalledHelpIsNoCallForHelp() {
    assertThat(CommandLine.asksForHelp("--input", "help")).isFalse();
  }

  @ParameterizedTest
  @CsvSource({
    "--debug, true",
    "--debug=true, true",
    "--debug true, true",
    "--debug false, false",
    "--debug=false, false",
    "--tag=debug, false"
  })
  void debugIsKnownBeforeAnythingIsParsed(String args, boolean debug) {
    assertThat(CommandLine.asksForDebug(args.split(" "))).isEqualTo(debug);
  }
}

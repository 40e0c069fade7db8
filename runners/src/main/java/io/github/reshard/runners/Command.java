package io.github.reshard.runners;

import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.stream.Stream;

/** What can be asked for; the first word of a command line, {@link #RESHARD} when there is none. */
@SuppressWarnings("ImmutableEnumChecker") // made by List.of
enum Command {
  RESHARD(
      "Reshard takes a DeepSpeed ZeRO checkpoint from the N ranks that saved it to the M ranks that"
          + " will go on with it. Stock load_checkpoint then works on M ranks, with no flag and no"
          + " code change.",
      "What is written, and where?",
      "--input=ckpt --output=ckpt-on-2 --targetWorldSize=2",
      "--input=ckpt --output=ckpt-on-16 --targetWorldSize=16 --tag=global_step500",
      "--input=ckpt --output=out --targetWorldSize=4 --runner=FlinkRunner"),
  INSPECT(
      "Says what a checkpoint is. Reads metadata only: a terabyte takes a second.",
      "What is this checkpoint?",
      "--input=ckpt",
      "--input=ckpt --json",
      "--input=ckpt --targetWorldSize=16 --html=ckpt.html"),
  DOCTOR(
      "Says whether a checkpoint is whole: reads every byte of it as the main job does, for the"
          + " ranks that saved it, with the same proofs, and writes nothing. For right after a"
          + " save. Exits with 0, or with 3 and what is wrong.",
      "Is it whole? Reads all, writes none",
      "--input=ckpt",
      "--input=ckpt --tag=global_step500 --json"),
  ENSURE(
      "Prints the directory to load from at some size, and nothing else, on stdout: --input itself"
          + " if it is for that size already, else one beside it, made now if it is not there or if"
          + " --input has gone on since. Every rank of every node may run this at once on a file"
          + " system that they share: one works, the others wait, and all print the same.",
      "Make it if needed, print where",
      "--input=ckpt --targetWorldSize=8 --keep=2",
      "--input=ckpt --gpus=$WORLD_SIZE"),
  VERIFY(
      "Says whether two checkpoints hold the same training state, whatever the number of ranks:"
          + " every state of every parameter, element by element, and what all ranks share, such as"
          + " steps and hyper-parameters. Says where the first difference is. Exits with 0 if they"
          + " are equal and with 5 if they differ.",
      "Do two hold the same state?",
      "--input=ckpt --output=ckpt-on-2",
      "--input=ckpt --tag=step100 --output=ckpt --outputTag=step200"),
  PLAN(
      "Says what a reshard would write: files, bytes, parts and memory. Takes the options of the"
          + " main job. Checks all metadata, as the job does, and touches nothing.",
      "What would be written?",
      "--input=ckpt --output=ckpt-on-2 --targetWorldSize=2"),
  EXPORT(
      "Writes the weights of a checkpoint of any stage and any number of ranks as safetensors that"
          + " from_pretrained loads: model.safetensors, or several with"
          + " model.safetensors.index.json, and the configuration and tokenizer that lie beside the"
          + " tag. Straight from the shards, with the proofs of the main job; no element is"
          + " gathered in memory. An adapter's weights become adapter_model.safetensors, as PEFT"
          + " has them.",
      "Weights for from_pretrained",
      "--input=ckpt --output=model",
      "--input=ckpt --output=model-fp32 --dtype=fp32",
      "--input=ckpt --output=model --stripPrefix=_forward_module."),
  FOLLOW(
      "Follows a training run: watches where it saves and reshards each checkpoint as soon as it is"
          + " whole, for one number of ranks or for several, so that it is there when the job comes"
          + " back with other GPUs. Runs until it is told to stop, by --until, Ctrl-C or SIGTERM,"
          + " and goes on where it left off when it is started again: docs/follow.md is the guide."
          + " A checkpoint that is refused is written down in --output/refused/TAG.json, and"
          + " following goes on. Exits with 0, with 3 if any was refused, with 4 if the output"
          + " cannot be written.",
      "Reshard each checkpoint as it is saved",
      "--input=ckpt --output=ready --targetWorldSize=4,8,16 --keep=2",
      "--input=ckpt --output=ready --targetWorldSize=4 --until=idle:30m"),
  CLEANUP(
      "Removes what runs that died, or could not clean up, left in an output:"
          + " .reshard-TAG.unpublished with the parts of files, and what else begins with"
          + " .reshard-TAG. Published tags and `latest` are never touched. No run may be writing to"
          + " the output meanwhile. If a run died in the middle of publishing, nothing is removed:"
          + " run the same reshard again, which repairs that.",
      "Remove what dead runs left",
      "--output=gs://bucket/ckpt-on-2");

  private final String text;
  private final String question;
  private final List<String> examples;

  /**
   * @param examples the simplest first
   */
  Command(String text, String question, String... examples) {
    this.text = text;
    this.question = question;
    this.examples = List.of(examples);
  }

  /** As the user types it. */
  String word() {
    return name().toLowerCase(Locale.ROOT);
  }

  static List<String> words() {
    return Arrays.stream(values()).map(Command::word).toList();
  }

  /** The command that {@code word} names. */
  static Command of(String word) {
    return valueOf(word.toUpperCase(Locale.ROOT));
  }

  /** The command whose help these arguments ask for. */
  static Command helpedIn(String... args) {
    return args.length > 0 && words().contains(args[0]) ? of(args[0]) : RESHARD;
  }

  /** What it does. */
  String text() {
    return text;
  }

  /** What it answers, in a few words. */
  String question() {
    return question;
  }

  /** What may follow the command, the simplest first. */
  List<String> examples() {
    return examples;
  }

  /** What comes before the options. */
  String typed() {
    return this == RESHARD ? "" : word() + " ";
  }

  /** The options that arguments without a name are for, in order. */
  List<String> positions() {
    return Stream.of("input", "output")
        .filter(name -> Options.named(name).orElseThrow().isTakenBy(this))
        .toList();
  }

  /**
   * @throws UsageException if an option of this program is missing, or is another command's
   */
  void require(CommandLine line) {
    if (line.has(Options.RANKS) && line.has(Options.GPUS)) {
      throw new UsageException("--targetWorldSize and --gpus say the same; give one of them");
    }
    requireOneSize(line);
    for (Option option : Options.all()) {
      String name = option.name();
      boolean given =
          line.has(name)
              || (name.equals(Options.RANKS)
                  && (line.has(Options.GPUS)
                      || line.has(Options.FORMAT_NAME, Options.DCP)
                      || line.has(Options.FORMAT_NAME, Options.UNIVERSAL)));
      if (option.isRequiredBy(this) && !given) {
        throw new UsageException(
            "--"
                + name
                + (name.equals(Options.RANKS) ? " or --" + Options.GPUS : "")
                + " is missing; "
                + typed()
                + "--help shows an example");
      }
    }
    for (String name : line.options().keySet()) {
      if (Options.named(name).filter(option -> !option.isTakenBy(this)).isPresent()) {
        throw new UsageException("--" + name + " is not an option of " + word());
      }
    }
  }

  private void requireOneSize(CommandLine line) {
    List<String> sizes = line.options().getOrDefault(Options.RANKS, List.of());
    if (sizes.isEmpty() || !sizes.get(0).contains(",")) {
      return;
    }
    if (this != RESHARD && this != PLAN && this != FOLLOW) {
      throw new UsageException("--" + Options.RANKS + " is one number for " + word());
    }
    if (line.has(Options.FORMAT_NAME) && !line.has(Options.FORMAT_NAME, Options.NATIVE)) {
      throw new UsageException(
          "--"
              + Options.FORMAT_NAME
              + "="
              + line.options().get(Options.FORMAT_NAME).get(0)
              + " gives one output for every number of ranks; name one of them, or none");
    }
  }
}

package io.github.reshard.runners;

import static io.github.reshard.runners.Command.CLEANUP;
import static io.github.reshard.runners.Command.DOCTOR;
import static io.github.reshard.runners.Command.ENSURE;
import static io.github.reshard.runners.Command.EXPORT;
import static io.github.reshard.runners.Command.FOLLOW;
import static io.github.reshard.runners.Command.INSPECT;
import static io.github.reshard.runners.Command.PLAN;
import static io.github.reshard.runners.Command.RESHARD;
import static io.github.reshard.runners.Command.VERIFY;
import static io.github.reshard.runners.Option.Group.CARE;
import static io.github.reshard.runners.Option.Group.RUN;
import static io.github.reshard.runners.Option.Group.WHAT;
import static io.github.reshard.runners.Option.Kind.BYTES;
import static io.github.reshard.runners.Option.Kind.COUNT;
import static io.github.reshard.runners.Option.Kind.COUNTS;
import static io.github.reshard.runners.Option.Kind.DIALECT;
import static io.github.reshard.runners.Option.Kind.DIRECTORY;
import static io.github.reshard.runners.Option.Kind.DTYPE;
import static io.github.reshard.runners.Option.Kind.FILE;
import static io.github.reshard.runners.Option.Kind.FLAG;
import static io.github.reshard.runners.Option.Kind.FORMAT;
import static io.github.reshard.runners.Option.Kind.MILLIS;
import static io.github.reshard.runners.Option.Kind.NUMBER;
import static io.github.reshard.runners.Option.Kind.RUNNER;
import static io.github.reshard.runners.Option.Kind.SECONDS;
import static io.github.reshard.runners.Option.Kind.STAGE;
import static io.github.reshard.runners.Option.Kind.TEXT;
import static io.github.reshard.runners.Option.Kind.UNTIL;

import io.github.reshard.checkpoint.planner.Formats;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;

/**
 * The options, in the order of the help. A new one is an entry here, or in the table of its group,
 * and a getter and setter of the same name in the options of the pipeline; parsing, help, what is
 * required, completion and man page follow.
 */
final class Options {
  static final String RANKS = "targetWorldSize";
  static final String GPUS = "gpus";
  static final String RUNNER_NAME = "runner";

  static final String FORMAT_NAME = "outputFormat";
  static final String NATIVE = "native";
  static final String DCP = Formats.DCP;
  static final String UNIVERSAL = Formats.UNIVERSAL;

  private static final Command[] ALL = Command.values();

  private static final List<Option> OF_WHAT =
      List.of(
          Option.of("input", DIRECTORY, "DIR", WHAT)
              .requiredBy(
                  "The directory that save_checkpoint was given, the one that holds the file"
                      + " `latest`. It may also be what Hugging Face Trainer, Accelerate or"
                      + " Lightning wrote around it. A Universal Checkpoint and an open training"
                      + " state (export --optimizer) are taken as well; docs/formats.md lists all"
                      + " formats. It is only ever read. May be gs://BUCKET/PATH or"
                      + " s3://BUCKET/PATH, and so may --output; or, where nodes wrote to disks of"
                      + " their own, all of them at once: '/mnt/node*/ckpt'.",
                  RESHARD)
              .requiredBy("The directory that save_checkpoint was given.", DOCTOR, PLAN, EXPORT)
              .requiredBy(
                  "The directory that a run saves into: that of save_checkpoint, or what Hugging"
                      + " Face Trainer, Accelerate or Lightning make around it. It need not be"
                      + " there yet. It is only ever read.",
                  FOLLOW)
              .requiredBy(
                  "The directory that save_checkpoint was given, or that of a distributed"
                      + " checkpoint of PyTorch.",
                  INSPECT)
              .requiredBy(
                  "One directory that save_checkpoint was given. One of the two may be a"
                      + " distributed checkpoint of PyTorch: the directory that has .metadata.",
                  VERIFY)
              .requiredBy(
                  "The directory that save_checkpoint was given, or the output directory of Hugging"
                      + " Face Trainer, of which the newest whole checkpoint-N is taken.",
                  ENSURE),
          Option.of("output", DIRECTORY, "DIR", WHAT)
              .requiredBy(
                  "The directory to write to: --output/TAG/... and, last, `latest`. It is made if"
                      + " it is not there. It may not be --input.",
                  RESHARD)
              .requiredBy(
                  "The directory to write to; with several sizes --output/world-M for each. One job"
                      + " follows into it at a time.",
                  FOLLOW)
              .requiredBy("The other one. It is only read.", VERIFY)
              .requiredBy("The directory that gets the weights; all of it appears at once.", EXPORT)
              .requiredBy("The --output of those runs.", CLEANUP)
              .takenBy("Where to make it. Default: INPUT-world-M.", ENSURE)
              .takenBy("The directory to write to; looked at, not touched. Default: none.", PLAN),
          Option.of(RANKS, COUNTS, "M", WHAT)
              .requiredBy(
                  "How many data-parallel ranks will load the output. Pipeline- and tensor-parallel"
                      + " degrees stay as saved, so that M x those is the number of GPUs. Several,"
                      + " such as 4,8,16, are made at once: --output/world-4, --output/world-8,"
                      + " ..., each with its own `latest`.",
                  RESHARD)
              .requiredBy(
                  "How many data-parallel ranks will load the output; several as 4,8,16.",
                  PLAN,
                  FOLLOW)
              .requiredBy("How many data-parallel ranks will load.", ENSURE)
              .takenBy("Also show who holds what on M data-parallel ranks. Default: off.", INSPECT),
          Option.of(GPUS, COUNT, "N", WHAT)
              .takenBy(
                  "In the place of --targetWorldSize: all GPUs that will load the output, as"
                      + " WORLD_SIZE counts them. N is divided by the pipeline- and tensor-parallel"
                      + " degrees that the checkpoint says. Default: none.",
                  RESHARD)
              .takenBy(
                  "In its place, all GPUs, as WORLD_SIZE counts them. Default: none.", ENSURE, PLAN)
              .takenBy("The same, with all GPUs counted. Default: off.", INSPECT),
          Option.of("tag", TEXT, "TAG", WHAT)
              .takenBy(
                  "Which checkpoint inside --input, for example global_step500. Default: what the"
                      + " file `latest` says.",
                  RESHARD)
              .takenBy(
                  "Which checkpoint inside --input. Default: what the file `latest` says.",
                  INSPECT,
                  DOCTOR,
                  ENSURE,
                  VERIFY,
                  PLAN,
                  EXPORT),
          Option.of("outputTag", TEXT, "TAG", WHAT)
              .takenBy(
                  "Which checkpoint inside --output. Default: what its `latest` says.", VERIFY),
          Option.of("every", COUNT, "K", WHAT)
              .takenBy("Take each K-th checkpoint that is saved. Default: all.", FOLLOW),
          Option.of("newestOnly", FLAG, "", WHAT)
              .takenBy(
                  "Pass over older ones when a newer one is whole, and say which. Default: all, in"
                      + " the order in which they were saved.",
                  FOLLOW),
          Option.of("until", UNTIL, "idle:TIME", WHAT)
              .takenBy(
                  "End when nothing new was saved for so long, such as idle:10m. Default: go on"
                      + " until told to stop.",
                  FOLLOW),
          Option.of("poll", MILLIS, "TIME", WHAT)
              .takenBy("How often to look, such as 500ms or 1m. Default: 10s.", FOLLOW),
          Option.of("giveUpAfter", MILLIS, "TIME", WHAT)
              .takenBy(
                  "How long a checkpoint that does not change may stay incomplete until what is"
                      + " missing is said. If more of it comes, it is looked at again. Default:"
                      + " 10m.",
                  FOLLOW),
          Option.of("targetStage", STAGE, "STAGE", WHAT)
              .takenBy(
                  "The ZeRO stage of the run that will load the output: 1, 2 or 3. Default: that of"
                      + " --input.",
                  RESHARD)
              .takenBy("As in the main job. Default: that of --input.", PLAN, FOLLOW),
          Option.of("targetTensorParallelSize", COUNT, "T", WHAT)
              .takenBy(
                  "How many tensor-parallel ranks the run that will load has: docs/degrees.md is"
                      + " the guide. The GPUs are then M x T. Default: as saved.",
                  RESHARD)
              .takenBy("As in the main job. Default: as saved.", PLAN, INSPECT),
          Option.of("tpRules", TEXT, "FILE", WHAT)
              .takenBy(
                  "How parameters are cut among tensor-parallel ranks, where the checkpoint does"
                      + " not say it: a JSON file, or llama, opt, gpt-neox or bloom for the models"
                      + " of these families under AutoTP. Default: what the checkpoint says.",
                  RESHARD)
              .takenBy("As in the main job. Default: what the checkpoint says.", PLAN, INSPECT),
          Option.of("kvHeads", NUMBER, "N", WHAT)
              .takenBy(
                  "How many key-value heads the model has, between which AutoTP cuts attention; 0"
                      + " if its configuration names none. Default: what config.json in the tag or"
                      + " beside it says.",
                  RESHARD)
              .takenBy("As in the main job. Default: what config.json says.", PLAN, INSPECT),
          Option.of("vocabularyMultiple", COUNT, "N", WHAT)
              .takenBy(
                  "Megatron's make_vocab_size_divisible_by, by which the size of a padded"
                      + " vocabulary follows. Default: none, which is asked for where it matters.",
                  RESHARD)
              .takenBy("As in the main job. Default: none.", PLAN, INSPECT),
          Option.of("targetExpertParallelSize", COUNT, "E", WHAT)
              .takenBy(
                  "On how many ranks each mixture of experts is divided: the ep_size of the run"
                      + " that will load. It divides the number of experts and M. Default: as"
                      + " saved.",
                  RESHARD)
              .takenBy("As in the main job. Default: as saved.", PLAN, INSPECT),
          Option.of("maxGroupSize", COUNT, "N", WHAT)
              .takenBy(
                  "Up to how many elements a param group of experts holds, the max_group_size of"
                      + " the script. Default: none, which is asked for where it matters.",
                  RESHARD)
              .takenBy("As in the main job. Default: none.", PLAN, INSPECT),
          Option.of("targetPipelineParallelSize", COUNT, "P", WHAT)
              .takenBy(
                  "How many pipeline stages the run that will load has. For more than one,"
                      + " --pipelineMethod or --pipelineParts says how layers are divided. Default:"
                      + " as saved.",
                  RESHARD)
              .takenBy("As in the main job. Default: as saved.", PLAN, INSPECT),
          Option.of("pipelineMethod", TEXT, "METHOD", WHAT)
              .takenBy(
                  "The partition_method of the script's PipelineModule: parameters, which is its"
                      + " default, uniform or type:REGEX. It has to give the stages that --input"
                      + " has. Default: none.",
                  RESHARD)
              .takenBy("As in the main job. Default: none.", PLAN, INSPECT),
          Option.of("pipelineParts", TEXT, "PARTS", WHAT)
              .takenBy(
                  "In its place, the first layer of each stage and, last, the number of layers,"
                      + " such as 0,5,10. Default: none.",
                  RESHARD)
              .takenBy("As in the main job. Default: none.", PLAN, INSPECT),
          Option.of("pipelineLayers", TEXT, "LAYERS", WHAT)
              .takenBy(
                  "The layers of the script, where the checkpoint leaves open what they are: how"
                      + " many, or the class of each, such as"
                      + " embed=Embedding,Block*24,lambda,embed=Embedding with the keys of tied"
                      + " layers. Default: none.",
                  RESHARD)
              .takenBy("As in the main job. Default: none.", PLAN, INSPECT),
          Option.of(FORMAT_NAME, FORMAT, "FORMAT", WHAT)
              .takenBy(
                  "native is what save_checkpoint would have written on M ranks; universal is"
                      + " DeepSpeed's Universal Checkpoint, which a run at any size and stage loads"
                      + " with load_universal: docs/universal.md is the guide; dcp is PyTorch's"
                      + " distributed checkpoint, which FSDP2 loads on any number of ranks, with"
                      + " the optimizer: docs/fsdp.md. These two need no --targetWorldSize;"
                      + " universal refuses what DeepSpeed would not load at the size and stage"
                      + " that are given. Default: native.",
                  RESHARD)
              .takenBy("As in the main job. Default: native.", PLAN, FOLLOW),
          Option.of("dialect", DIALECT, "DIALECT", WHAT)
              .takenBy(
                  "Under which keys --outputFormat=dcp puts what: torch is what get_state_dict"
                      + " gives, torchFlat the same with flatten_optimizer_state_dict, torchtitan"
                      + " and accelerate are theirs. Default: torch.",
                  RESHARD)
              .takenBy("As in the main job. Default: torch.", PLAN, FOLLOW),
          Option.of("filesPerCheckpoint", COUNT, "K", WHAT)
              .takenBy(
                  "Into how many data files --outputFormat=dcp writes. Default: as many as --input"
                      + " has data-parallel ranks.",
                  RESHARD)
              .takenBy("As in the main job. Default: one for each rank.", PLAN, FOLLOW),
          Option.of("template", DIRECTORY, "DIR", WHAT)
              .takenBy(
                  "For an --input that is a distributed checkpoint of PyTorch: what the DeepSpeed"
                      + " run that will load saved after one step, the directory that"
                      + " save_checkpoint was given. What such an input does not hold comes from"
                      + " it. From one distributed checkpoint to another no tool is needed: every"
                      + " loader cuts it for its own ranks. Default: none.",
                  RESHARD)
              .takenBy("As in the main job. Default: none.", PLAN),
          Option.of("keep", COUNT, "K", WHAT)
              .takenBy(
                  "How many checkpoints stay in --output when one is made; older ones that this"
                      + " program made are removed. Default: all.",
                  ENSURE)
              .takenBy(
                  "How many checkpoints stay in --output; older ones that this program made are"
                      + " removed, and older ones that wait are passed over. Default: all.",
                  FOLLOW));

  private static final List<Option> OF_THE_RUN =
      List.of(
          Option.of("wait", SECONDS, "TIME", CARE)
              .takenBy(
                  "For how long to wait for a checkpoint that a run is still saving, such as 60s or"
                      + " 10m: until every file of every rank is there to its end and nothing"
                      + " changes. Default: refuse, and name what is missing or grows.",
                  RESHARD),
          Option.of("overwrite", FLAG, "", CARE)
              .takenBy(
                  "Replace the tag if --output already holds it. Default: refuse, and touch"
                      + " nothing.",
                  RESHARD)
              .takenBy("Replace an earlier export. Default: refuse, and touch nothing.", EXPORT)
              .takenBy("As in the main job. Default: off.", PLAN),
          Option.of("trustMasters", FLAG, "", CARE)
              .takenBy(
                  "Go on when the fp32 master weights do not give the module weights, because"
                      + " somebody edited the weights on purpose; the result follows the masters."
                      + " Default: refuse, and name the parameter.",
                  RESHARD)
              .takenBy("As in the main job. Default: off.", DOCTOR, ENSURE, PLAN, EXPORT, FOLLOW),
          Option.of(RUNNER_NAME, RUNNER, "RUNNER", RUN)
              .takenBy("Where the work is done. Default: DirectRunner.", ALL)
              .takenBy(
                  "Where the work is done: DirectRunner is this machine, FlinkRunner is Flink,"
                      + " embedded here or a cluster with --flinkMaster=HOST:PORT, DataflowRunner"
                      + " is Google Cloud. Default: DirectRunner.",
                  RESHARD,
                  FOLLOW)
              .takenBy(
                  "Where the work is done. A cluster also needs a --tempLocation that all its"
                      + " machines see. Default: DirectRunner.",
                  VERIFY),
          Option.of("partBytes", BYTES, "SIZE", RUN)
              .takenBy(
                  "How much one worker writes in one go, such as 16MiB or 1GiB. Less spreads the"
                      + " work of few large files better. Default: 64MiB; 16MiB with FlinkRunner"
                      + " and a local --output.",
                  RESHARD)
              .takenBy(
                  "How much one worker writes in one go. Default: 64MiB.",
                  ENSURE,
                  PLAN,
                  EXPORT,
                  FOLLOW)
              .takenBy("How much one worker reads in one go. Default: 64MiB.", DOCTOR)
              .takenBy("How much one worker compares in one go. Default: 64MiB.", VERIFY),
          Option.of("json", FLAG, "", RUN)
              .takenBy("Print JSON. Default: a summary.", RESHARD, DOCTOR, EXPORT)
              .takenBy("Print JSON, one object a line. Default: a line a checkpoint.", FOLLOW)
              .takenBy(
                  "Print JSON, which also says where every element is. Default: a table.", INSPECT)
              .takenBy(
                  "Print JSON with a row for every state of every parameter. Default: a table of"
                      + " what differs.",
                  VERIFY),
          Option.of("html", FILE, "FILE", RUN)
              .takenBy(
                  "Also write one page with a picture of which rank holds which part of which"
                      + " parameter. It needs nothing else. Default: none.",
                  INSPECT),
          Option.of("debug", FLAG, "", RUN)
              .takenBy("Show stack traces and what the runner logs. Default: off.", ALL),
          Option.of("help", FLAG, "", RUN)
              .takenBy("Show this text. Default: off.", ALL)
              .takenBy("Show this text; after a command, that command's. Default: off.", RESHARD));

  private static final List<Option> TABLE =
      Stream.of(OF_WHAT, ShardsOptions.TABLE, WeightsOptions.TABLE, OF_THE_RUN)
          .flatMap(List::stream)
          .toList();

  private Options() {}

  /** What an option of this kind may say, if that is one of a few words. */
  static List<String> words(Option.Kind kind) {
    return switch (kind) {
      case FORMAT -> List.of(NATIVE, UNIVERSAL, DCP);
      case DTYPE -> List.of("asSaved", "bf16", "fp16", "fp32");
      case DIALECT -> Formats.dialects();
      default -> List.of();
    };
  }

  /** The options that {@code command} takes. */
  static List<Option> of(Command command) {
    return TABLE.stream().filter(option -> option.isTakenBy(command)).toList();
  }

  /** All options, of whatever command. */
  static List<Option> all() {
    return TABLE;
  }

  static Optional<Option> named(String name) {
    return TABLE.stream().filter(option -> option.name().equals(name)).findFirst();
  }
}

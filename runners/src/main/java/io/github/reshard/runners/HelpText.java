package io.github.reshard.runners;

/** What {@code --help} says. */
final class HelpText {
  private HelpText() {}

  static final String TEXT =
      """
      Reshard takes a DeepSpeed ZeRO checkpoint from the N ranks that saved it to the M ranks
      that will go on with it. Stock load_checkpoint then works on M ranks, with no flag and no
      code change.

      Examples
        scripts/reshard --input=ckpt --output=ckpt-on-2 --targetWorldSize=2
        scripts/reshard --input=ckpt --output=ckpt-on-16 --targetWorldSize=16 --tag=global_step500
        scripts/reshard --input=ckpt --output=out --targetWorldSize=4 --runner=FlinkRunner

      What to reshard
        --input=DIR            The directory that save_checkpoint was given, the one that holds
                               the file `latest`. It may also be what Hugging Face Trainer,
                               Accelerate or Lightning wrote around it. It is only ever read.
                               Required.
        --output=DIR           The directory to write to: --output/TAG/... and, last, `latest`.
                               It is made if it is not there. It may not be --input. Required.
        --targetWorldSize=M    How many data-parallel ranks will load the output. Pipeline- and
                               tensor-parallel degrees stay as saved, so that M x those is the
                               number of GPUs. Required.
        --tag=TAG              Which checkpoint inside --input, for example global_step500.
                               Default: what the file `latest` says.

      How careful to be
        --overwrite            Replace the tag if --output already holds it.
                               Default: refuse, and touch nothing.
        --trustMasters         Go on when the fp32 master weights do not give the module weights,
                               because somebody edited the weights on purpose; the result follows
                               the masters. Default: refuse, and name the parameter.

      How to run
        --runner=RUNNER        Where the work is done: DirectRunner is this machine, FlinkRunner
                               is Flink, embedded here or a cluster with --flinkMaster=HOST:PORT,
                               DataflowRunner is Google Cloud. Default: DirectRunner.
        --partBytes=SIZE       How much one worker writes in one go, such as 16MiB or 1GiB. Less
                               spreads the work of few large files better. Default: 64MiB.
        --debug                Show stack traces and what the runner logs. Default: off.
        --help                 Show this text.
        Any option of Beam or of the chosen runner works too, such as --targetParallelism=8.
        Options are written --name=value or --name value; yes/no options may stand alone.

      Environment of scripts/reshard
        RESHARD_JAVA_OPTS      Options for the Java machine, such as -Xmx1g; they win over the
                               ones that scripts/reshard picks.

      Exit codes
        0  done
        1  something that should not happen; --debug shows where
        2  wrong usage
        3  the input was refused: missing, damaged, inconsistent or not supported
        4  the output cannot be written
      """;
}

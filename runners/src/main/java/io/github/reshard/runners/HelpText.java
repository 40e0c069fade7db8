package io.github.reshard.runners;

/** What {@code --help} says, of the main job and of each command. */
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
                               May be gs://BUCKET/PATH or s3://BUCKET/PATH, and so may --output.
                               Required.
        --output=DIR           The directory to write to: --output/TAG/... and, last, `latest`.
                               It is made if it is not there. It may not be --input. Required.
        --targetWorldSize=M    How many data-parallel ranks will load the output. Pipeline- and
                               tensor-parallel degrees stay as saved, so that M x those is the
                               number of GPUs. Required.
        --gpus=N               In the place of --targetWorldSize: all GPUs that will load the
                               output, as WORLD_SIZE counts them. N is divided by the pipeline-
                               and tensor-parallel degrees that the checkpoint says.
                               Default: none.
        --tag=TAG              Which checkpoint inside --input, for example global_step500.
                               Default: what the file `latest` says.
        --targetStage=STAGE    The ZeRO stage of the run that will load the output: 1, 2 or 3.
                               Default: that of --input.

      Shards that you saved yourself: torch.save(optimizer.state_dict(), ...) on every rank
        A directory of files such as optimizer.00.pt needs nothing more than --input; the output
        holds the same names for M ranks. docs/user-shards.md is the guide.
        --shards=PATTERN       Other names: the file name with one * in the place of the rank, such
                               as 'step900-rank*.pt'. Quote it. Default: the usual names.
        --model=FILE           The model's state dict at the same step: a torch file, safetensors,
                               or the index of several. It proves the order of parameters, which
                               the shards cannot tell; ZeRO-3 needs it for names and shapes.
                               Default: the order is taken on trust, and that is said.
        --dsConfig=FILE        The DeepSpeed configuration of the run. Default: what the shards
                               show.
        --paramGroups=FILE     JSON, for ZeRO-3 with several param groups: a list of the names of
                               each group, in order. Default: one group.
        --sanitize             Write dicts and numbers in the place of DeepSpeed's own objects, so
                               that torch.load(weights_only=True) reads the shards anywhere. The
                               guide shows how to put the objects back. Default: as saved.

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
                               spreads the work of few large files better.
                               Default: 64MiB; 16MiB with FlinkRunner and a local --output.
        --debug                Show stack traces and what the runner logs. Default: off.
        --help                 Show this text; after a command, that command's. Default: off.
        Any option of Beam or of the chosen runner works too, such as --targetParallelism=8.
        Options are written --name=value or --name value; yes/no options may stand alone. The
        names --input and --output may be left out: scripts/reshard ckpt out --targetWorldSize=2.

      Other commands
        scripts/reshard inspect --input=ckpt                   What is this checkpoint?
        scripts/reshard verify --input=ckpt --output=other     Do two hold the same state?
        scripts/reshard ensure --input=ckpt --targetWorldSize=8
                                                               Make it if needed, print where
        scripts/reshard doctor --input=ckpt                    Is it whole? Reads all, writes none
        scripts/reshard plan --input=ckpt --targetWorldSize=2  What would be written?
        scripts/reshard cleanup --output=out                   Remove what dead runs left.
        scripts/reshard completion bash                        Or zsh: completion for the shell
        scripts/reshard man                                    The man page
        scripts/reshard --version                              This program, Beam and Java
        --json                 Print JSON. Default: a table, or a summary of the run.
        --html=FILE            inspect: also write a page that shows which rank holds what.
                               Default: none.
        --keep=K               ensure: how many checkpoints stay in its output. Default: all.
        --outputTag=TAG        verify: which checkpoint inside --output.
                               Default: what its `latest` says.

      Environment
        RESHARD_PROGRESS       With json, progress is told in JSON, one object a line, on stderr.
        RESHARD_JAVA_OPTS      Options for the Java machine, such as -Xmx1g; they win over the
                               ones that are picked for it.

      Exit codes
        0  done
        1  something that should not happen; --debug shows where
        2  wrong usage
        3  the input was refused: missing, damaged, inconsistent or not supported
        4  the output cannot be written, or another run is writing to it
        5  verify: the two checkpoints differ
      """;

  static final String INSPECT =
      """
      Says what a checkpoint is. Reads metadata only: a terabyte takes a second.

      Examples
        scripts/reshard inspect --input=ckpt
        scripts/reshard inspect --input=ckpt --json
        scripts/reshard inspect --input=ckpt --targetWorldSize=16 --html=ckpt.html

        --input=DIR            The directory that save_checkpoint was given. Required.
        --tag=TAG              Which checkpoint inside it. Default: what the file `latest` says.
        --json                 Print JSON, which also says where every element is. Default: a table.
        --html=FILE            Also write one page with a picture of which rank holds which part
                               of which parameter. It needs nothing else. Default: none.
        --targetWorldSize=M    Also show who holds what on M data-parallel ranks. Default: off.
        --gpus=N               The same, with all GPUs counted. Default: off.
        --debug                Show stack traces. Default: off.
      """;

  static final String DOCTOR =
      """
      Says whether a checkpoint is whole: reads every byte of it as the main job does, for the
      ranks that saved it, with the same proofs, and writes nothing. For right after a save.
      Exits with 0, or with 3 and what is wrong.

      Examples
        scripts/reshard doctor --input=ckpt
        scripts/reshard doctor --input=ckpt --tag=global_step500 --json

        --input=DIR            The directory that save_checkpoint was given. Required.
        --tag=TAG              Which checkpoint inside it. Default: what the file `latest` says.
        --json                 Print JSON. Default: a summary.
        --trustMasters         As in the main job. Default: off.
        --partBytes=SIZE       How much one worker reads in one go. Default: 64MiB.
        --shards=PATTERN       As in the main job. Default: the usual names.
        --model=FILE           As in the main job. Default: none.
        --dsConfig=FILE        As in the main job. Default: none.
        --paramGroups=FILE     As in the main job. Default: none.
        --debug                Show stack traces and what the runner logs. Default: off.
      """;

  static final String ENSURE =
      """
      Prints the directory to load from at some size, and nothing else, on stdout: --input itself
      if it is for that size already, else one beside it, made now if it is not there or if
      --input has gone on since. Every rank of every node may run this at once on a file system
      that they share: one works, the others wait, and all print the same.

      Examples
        CKPT=$(scripts/reshard ensure --input=ckpt --gpus=$WORLD_SIZE)
        scripts/reshard ensure --input=ckpt --targetWorldSize=8 --keep=2

        --input=DIR            The directory that save_checkpoint was given, or the output
                               directory of Hugging Face Trainer, of which the newest whole
                               checkpoint-N is taken. Required.
        --targetWorldSize=M    How many data-parallel ranks will load. Required.
        --gpus=N               In its place, all GPUs, as WORLD_SIZE counts them. Default: none.
        --output=DIR           Where to make it. Default: INPUT-world-M.
        --keep=K               How many checkpoints stay in --output when one is made; older ones
                               that this program made are removed. Default: all.
        --tag=TAG              Which checkpoint inside --input. Default: what `latest` says.
        --trustMasters         As in the main job. Default: off.
        --partBytes=SIZE       As in the main job. Default: 64MiB.
        --shards=PATTERN       As in the main job. Default: the usual names.
        --model=FILE           As in the main job. Default: none.
        --dsConfig=FILE        As in the main job. Default: none.
        --paramGroups=FILE     As in the main job. Default: none.
        --debug                Show stack traces and what the runner logs. Default: off.
      """;

  static final String VERIFY =
      """
      Says whether two checkpoints hold the same training state, whatever the number of ranks:
      every state of every parameter, element by element, and what all ranks share, such as steps
      and hyper-parameters. Says where the first difference is. Exits with 0 if they are equal and
      with 5 if they differ.

      Examples
        scripts/reshard verify --input=ckpt --output=ckpt-on-2
        scripts/reshard verify --input=ckpt --tag=step100 --output=ckpt --outputTag=step200

        --input=DIR            One directory that save_checkpoint was given. Required.
        --output=DIR           The other one. It is only read. Required.
        --tag=TAG              Which checkpoint inside --input. Default: what its `latest` says.
        --outputTag=TAG        Which checkpoint inside --output. Default: what its `latest` says.
        --json                 Print JSON with a row for every state of every parameter.
                               Default: a table of what differs.
        --partBytes=SIZE       How much one worker compares in one go. Default: 64MiB.
        --runner=RUNNER        Where the work is done. A cluster also needs a --tempLocation that
                               all its machines see. Default: DirectRunner.
        --debug                Show stack traces and what the runner logs. Default: off.
      """;

  static final String CLEANUP =
      """
      Removes what runs that died, or could not clean up, left in an output: .reshard-TAG.unpublished
      with the parts of files, and what else begins with .reshard-TAG. Published tags and `latest` are
      never touched. No run may be writing to the output meanwhile. If a run died in the middle of
      publishing, nothing is removed: run the same reshard again, which repairs that.

      Example
        scripts/reshard cleanup --output=gs://bucket/ckpt-on-2

        --output=DIR           The --output of those runs. Required.
        --debug                Show stack traces. Default: off.
      """;

  static final String PLAN =
      """
      Says what a reshard would write: files, bytes, parts and memory. Takes the options of the
      main job. Checks all metadata, as the job does, and touches nothing.

      Example
        scripts/reshard plan --input=ckpt --output=ckpt-on-2 --targetWorldSize=2

        --input=DIR            The directory that save_checkpoint was given. Required.
        --targetWorldSize=M    How many data-parallel ranks will load the output. Required.
        --gpus=N               In its place, all GPUs. Default: none.
        --output=DIR           The directory to write to; looked at, not touched. Default: none.
        --tag=TAG              Which checkpoint inside --input. Default: what `latest` says.
        --targetStage=STAGE    As in the main job. Default: that of --input.
        --partBytes=SIZE       How much one worker writes in one go. Default: 64MiB.
        --shards=PATTERN       As in the main job. Default: the usual names.
        --model=FILE           As in the main job. Default: none.
        --dsConfig=FILE        As in the main job. Default: none.
        --paramGroups=FILE     As in the main job. Default: none.
        --sanitize             As in the main job. Default: off.
        --overwrite            As in the main job. Default: off.
        --trustMasters         As in the main job. Default: off.
        --debug                Show stack traces. Default: off.
      """;
}

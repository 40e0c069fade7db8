"""The table of the live matrix: what is trained, at which sizes, and where it is resumed."""

import dataclasses

# How far a resumed run's losses may lie from those of the run that never stopped, relative to the
# loss. Reductions over another number of ranks add up in another order, which is all that may
# differ; the states themselves are compared bit for bit. The largest seen: 2.3e-7, 1.2e-5, 4.1e-4.
TOLERANCES = {"fp32": 5e-7, "fp16": 5e-5, "bf16": 1e-3}


@dataclasses.dataclass(frozen=True)
class Case:
    """One training run that is stopped, and the data-parallel sizes at which it goes on.

    `script` is one of the corpus scripts, one of those of another folder of testdata, or one
    beside this file. `arguments` are its command
    line without sizes and paths. `degree` is the pipeline or tensor-parallel degree: there are
    size x degree processes. `small` are the targets of the small matrix, `targets` those that the
    whole matrix adds. `optimizer`, `scheduler` and `client_state` choose from `extras`; `config`
    is merged into the DeepSpeed configuration. `checkpoint` is where, below the directory that was
    saved to, the checkpoint lies. `stock_error` says that DeepSpeed itself cannot resume what it
    wrote, at any size, and with which words: the resharded checkpoint must then fail alike.
    `reshard` are more options for the reshard command, and `resume` more of the script for the run
    that goes on, such as another stage. `convert` has DeepSpeed's own converter make a Universal
    Checkpoint first, which is then what is resharded. `opened` exports the open training state
    first, safetensors and JSON, and that is resharded. `resume_degree` is the degree of the run that
    goes on, where that is another one: then states are not compared by name, which model-parallel
    ranks share, but what DeepSpeed saves at once after the load with what it loaded.
    """

    name: str
    source: int
    targets: tuple
    arguments: str = ""
    small: tuple = ()
    script: str = "train.py"
    dtype: str = "fp32"
    degree: int = 1
    optimizer: str = None
    scheduler: str = None
    client_state: bool = False
    config: dict = None
    checkpoint: str = ""
    stock_error: str = None
    reshard: tuple = ()
    resume: str = ""
    convert: bool = False
    opened: bool = False
    resume_degree: int = None


def turned(name, source, targets, arguments, stage, **more):
    """A case whose run goes on at another ZeRO stage."""
    return Case(name, source, targets, arguments, resume=f"--stage {stage}",
                reshard=(f"--targetStage={stage}",), **more)


def universal(name, source, targets, arguments, stage, **more):
    """A case whose run goes on with load_universal, at the ZeRO stage that is named."""
    return Case(name, source, targets, arguments, resume=f"--stage {stage} --universal",
                reshard=("--outputFormat=universal", f"--targetStage={stage}"), **more)


def grid(name, pipeline, tensor, data, to, dtype="fp32", small=False):
    """A pipeline of layers that tensor-parallel ranks share, whose run goes on on another grid."""
    stages, ranks, copies = to
    return Case(name, data, () if small else (copies,), f"--pipeline {pipeline} --tensor {tensor} --dtype {dtype}",
                small=(copies,) if small else (), script="../degrees/train_grid.py", dtype=dtype,
                degree=pipeline * tensor, resume_degree=stages * ranks,
                resume=f"--pipeline {stages} --tensor {ranks}",
                reshard=(f"--targetPipelineParallelSize={stages}", f"--targetTensorParallelSize={ranks}",
                         "--pipelineMethod=uniform", "--vocabularyMultiple=2",
                         "--pipelineLayers=embed=Embed,Block*4,LayerNorm,embed=Embed"))


def tensor(name, ranks, data, to, arguments, dtype="fp32", small=False, reshard=(), stage=None):
    """A run with automatic tensor parallelism that goes on with another number of such ranks, and at another stage."""
    there, copies = to
    return Case(name, data, () if small else (copies,), f"--tp {ranks} --dtype {dtype} {arguments}",
                small=(copies,) if small else (), script="../tensor/train_tensor.py", dtype=dtype, degree=ranks,
                resume_degree=there, resume=f"--tp {there}" + (f" --stage {stage}" if stage else ""),
                reshard=(f"--targetTensorParallelSize={there}", *((f"--targetStage={stage}",) if stage else ()), *reshard))


def experts(name, data, to, arguments, dtype="fp32"):
    """A mixture of experts whose run goes on at another expert-parallel size, (data, experts)."""
    there, size = to
    return Case(name, data, (there,), f"--experts 4 --dtype {dtype} --aux 0 --vocab 19 --d 6 --m 5 {arguments}",
                script=EXPERTS, dtype=dtype, resume_degree=1, resume=f"--ep {size}",
                reshard=(f"--targetExpertParallelSize={size}",))


ZERO3 = "../zero3/train_z3.py"
EXPERTS = "../moe/train_moe.py"
# The gate's auxiliary loss (deepspeed/moe/sharded_moe.py, `l_aux`) is a product of two means over
# the tokens of one rank, so it depends on how a batch is split, and these rows train without it.
MODEL = ("--model=pytorch_model.bin",)
# The rows of `scripts/interop versions`, and the size at which each is resumed.
VERSIONS = {"z1-bf16": 3, "z2-fp16-dynamic": 2, "z2-fp32-two-groups": 2, "z2-freeze-tie": 4,
            "z2-round-robin": 3, "z3-bf16-sub-groups": 3, "z3-fp32": 2, "moe-z2-ep2-bf16": 2}
TINY = "--two --d 1 --m 1 --vocab 5 --layers 1"

CASES = (
    Case("z2-fp32-two-groups", 4, (1, 3, 4, 6, 12), "--stage 2 --two", small=(2, 8)),
    Case("z1-fp32", 3, (1, 2, 4, 8), "--stage 1"),
    Case("z1-fp32-two-groups-scheduler", 2, (3, 6), "--stage 1 --two --sched"),
    Case("z2-fp16-dynamic", 3, (1, 3, 4, 8), "--stage 2 --dtype fp16 --two --sched", small=(2,),
         dtype="fp16"),
    Case("z1-fp16-dynamic", 4, (2, 6), "--stage 1 --dtype fp16", dtype="fp16"),
    Case("z2-fp16-some-steps-skipped", 4, (1, 2), "--stage 2 --dtype fp16 --scale 18",
         dtype="fp16", config={"fp16": {"loss_scale_window": 1000}}),
    Case("z2-fp16-no-step-taken-yet", 2, (3, 4), "--stage 2 --dtype fp16 --scale 24", dtype="fp16"),
    Case("z1-bf16-optimizer", 2, (1, 2, 3, 12), "--stage 1 --dtype bf16 --gad fp32", small=(4,),
         dtype="bf16"),
    Case("z1-bf16-optimizer-two-groups", 4, (1, 3, 8), "--stage 1 --dtype bf16 --gad fp32 --two",
         dtype="bf16"),
    Case("z1-bf16", 2, (3, 4), "--stage 1 --dtype bf16", dtype="bf16"),
    Case("z2-bf16-clip", 6, (2, 4, 8), "--stage 2 --dtype bf16 --clip", dtype="bf16"),
    Case("z2-tiny-groups-from-8", 8, (1, 2, 3, 12), f"--stage 2 {TINY}", small=(4,)),
    Case("z2-tiny-groups-from-2", 2, (8, 12), f"--stage 2 {TINY}"),
    Case("z1-tiny-groups-bf16-optimizer", 2, (8, 12), f"--stage 1 --dtype bf16 --gad fp32 {TINY}",
         dtype="bf16"),
    Case("z1-tiny-groups-bf16-optimizer-from-8", 8, (1, 3),
         f"--stage 1 --dtype bf16 --gad fp32 {TINY}", dtype="bf16"),
    Case("z2-freeze-tie", 3, (1, 2, 8), "--stage 2 --two --freeze --tie", small=(4,)),
    Case("z1-freeze-tie-bf16-optimizer", 2, (3,),
         "--stage 1 --dtype bf16 --gad fp32 --two --freeze --tie", dtype="bf16"),
    Case("z2-round-robin", 2, (1, 2, 4, 8), "--stage 2 --round_robin --two", small=(3,)),
    Case("z2-round-robin-from-4", 4, (1, 2, 6), "--stage 2 --round_robin"),
    Case("z2-round-robin-from-1", 1, (2, 3), "--stage 2 --round_robin --two"),
    # DeepSpeed looks for the step where torch.optim.AdamW does not keep it.
    Case("z2-elastic", 4, (2, 4), "--stage 2 --two --elastic",
         stock_error="_restore_step_from_elastic_checkpoint"),
    Case("z2-elastic-group-step", 4, (1, 2, 3, 8), "--stage 2 --two --elastic",
         optimizer="group-step-adam"),
    Case("z2-group-step", 2, (3,), "--stage 2 --two", optimizer="group-step-adam"),
    Case("z1-sgd-momentum", 2, (4,), "--stage 1 --opt sgd", small=(3,)),
    Case("z2-sgd-plain", 2, (3, 8), "--stage 2 --opt sgd0 --two"),
    Case("z2-adagrad", 3, (1, 4), "--stage 2 --opt adagrad", small=(2,)),
    Case("z2-adagrad-from-one", 3, (2, 8), "--stage 2 --opt adagrad",
         optimizer="adagrad-from-one"),
    Case("z2-rmsprop", 2, (3, 6), "--stage 2 --opt rmsprop"),
    Case("z2-amsgrad", 4, (2, 3), "--stage 2 --opt amsgrad --two"),
    Case("z2-nadam", 2, (4,), "--stage 2", optimizer="nadam"),
    Case("z2-lion", 3, (2, 4), "--stage 2 --two", optimizer="lion"),
    Case("z1-lion-bf16-optimizer", 2, (3,), "--stage 1 --dtype bf16 --gad fp32",
         optimizer="lion", dtype="bf16"),
    # Muon orthogonalizes in half precision, whatever the type of the model.
    Case("z2-muon", 2, (1, 4, 8), "--stage 2", optimizer="muon", small=(3,), dtype="fp16"),
    Case("z1-muon-tiny-groups", 8, (1, 2, 3, 12), f"--stage 1 {TINY}", optimizer="muon",
         dtype="fp16"),
    Case("z2-muon-round-robin", 3, (1, 2, 4), "--stage 2 --round_robin", optimizer="muon",
         dtype="fp16"),
    Case("z2-any-class", 2, (3,), "--stage 2 --two", scheduler="warmup-then-decay",
         client_state=True, small=(1,)),
    Case("z2-offload", 2, (1, 4), "--stage 2 --offload"),
    Case("z3-fp32", 4, (1, 3, 8), "--stage 3", small=(2,)),
    Case("z3-bf16-sub-groups", 2, (1, 4), "--stage 3 --dtype bf16 --two --sub 400", small=(3,),
         dtype="bf16"),
    Case("z3-freeze-tie", 2, (1, 4), "--stage 3 --freeze --tie", small=(3,)),
    Case("z3-sub-groups-scheduler", 3, (2, 8), "--stage 3 --two --sub 300 --sched"),
    Case("z3-odd-shapes-zinit-bf16", 4, (1, 3),
         "--stage 3 --odd --two --freeze --tie --zinit --d 5 --m 6 --vocab 11 --dtype bf16",
         script=ZERO3, dtype="bf16"),
    Case("z3-odd-shapes-sub-groups-amsgrad", 3, (2, 8),
         "--stage 3 --odd --freeze --sub 20 --d 5 --m 6 --vocab 11 --opt amsgrad", small=(4,),
         script=ZERO3),
    Case("z3-fp16-offload", 2, (3, 4),
         "--stage 3 --dtype fp16 --offload --two --sub 60 --d 7 --m 12 --vocab 19", small=(1,),
         script=ZERO3, dtype="fp16"),
    Case("z3-zinit-fp16-sgd", 4, (2, 3),
         "--stage 3 --two --zinit --sched --d 7 --m 12 --vocab 19 --dtype fp16 --opt sgd",
         script=ZERO3, dtype="fp16"),
    Case("z3-sgd-plain-bf16", 2, (3,), "--stage 3 --opt sgd0 --d 7 --m 12 --vocab 19 --dtype bf16",
         script=ZERO3, dtype="bf16"),
    Case("z3-param-offload", 2, (3,),
         "--stage 3 --odd --two --freeze --offload --param_offload --sub 20 --d 5 --m 6 --vocab 11"
         " --dtype fp16", script=ZERO3, dtype="fp16"),
    Case("z3-hpz", 4, (2, 6), "--stage 3 --odd --hpz 2 --zinit --d 5 --m 6 --vocab 11",
         script=ZERO3),
    universal("universal-2-to-2", 4, (1, 2, 6), "--stage 2 --two", 2),
    universal("universal-2-to-3", 4, (2,), "--stage 2", 3, small=(3,)),
    universal("universal-2-to-1-bf16-optimizer", 3, (2, 4), "--stage 2 --dtype bf16 --gad fp32", 1,
              dtype="bf16"),
    universal("universal-1-bf16-optimizer-to-3", 2, (3,), "--stage 1 --dtype bf16 --gad fp32", 3,
              dtype="bf16"),
    universal("universal-3-to-2", 4, (2,), "--stage 3", 2, small=(3,)),
    # With several sub-groups DeepSpeed gives all one step, and each adds to it.
    universal("universal-3-to-3-bf16", 2, (1, 3, 4), "--stage 3 --dtype bf16", 3, dtype="bf16"),
    universal("universal-3-to-1", 3, (4,), "--stage 3 --two", 1),
    universal("universal-fp16-dynamic", 3, (2, 4), "--stage 2 --dtype fp16 --two --sched", 2,
              dtype="fp16"),
    universal("universal-sgd", 2, (3,), "--stage 1 --opt sgd", 2),
    universal("universal-adagrad", 3, (2,), "--stage 2 --opt adagrad", 2),
    universal("universal-amsgrad", 4, (3,), "--stage 2 --opt amsgrad --two", 1),
    Case("open-state-2", 4, (3,), "--stage 2 --two --sched", small=(2,), opened=True),
    Case("open-state-1-bf16-optimizer", 2, (3,), "--stage 1 --dtype bf16 --gad fp32 --two",
         dtype="bf16", opened=True),
    Case("open-state-fp16-dynamic", 3, (2,), "--stage 2 --dtype fp16 --two --sched", dtype="fp16",
         opened=True),
    Case("open-state-freeze-tie", 3, (2,), "--stage 2 --two --freeze --tie", opened=True),
    Case("open-state-3", 2, (3,), "--stage 3 --dtype bf16 --two --sub 400", dtype="bf16",
         opened=True),
    turned("open-state-3-to-2", 4, (2,), "--stage 3 --two", 2, opened=True),
    turned("open-state-2-to-3", 2, (3,), "--stage 2 --dtype bf16", 3, dtype="bf16", opened=True),
    Case("open-state-adagrad", 3, (2,), "--stage 2 --opt adagrad", opened=True),
    universal("universal-tp2", 2, (1, 3), "--tp 2", 1, script="train_tensor_parallel.py", degree=2,
              dtype="bf16"),
    Case("universal-pp2", 2, (1, 3), "--pp 2", script="train_pipeline.py", degree=2,
         resume="--universal", reshard=("--outputFormat=universal",)),
    Case("open-state-tp2", 2, (3,), "--tp 2", script="train_tensor_parallel.py", degree=2,
         dtype="bf16", opened=True, reshard=("--targetTensorParallelSize=2", "--kvHeads=0")),
    Case("from-universal-tp2", 2, (3,), "--tp 2", script="train_tensor_parallel.py", degree=2,
         dtype="bf16", convert=True),
    Case("from-universal-2", 4, (3,), "--stage 2 --two", small=(2,), convert=True),
    Case("from-universal-3", 2, (3,), "--stage 3 --two --sub 400", convert=True),
    turned("from-universal-3-to-2", 2, (3,), "--stage 3 --dtype bf16 --two", 2, dtype="bf16",
           convert=True),
    turned("stage-2-to-3", 4, (2, 4), "--stage 2 --two", 3, small=(3,)),
    turned("stage-3-to-2", 2, (2, 4), "--stage 3 --two", 2, small=(3,)),
    turned("stage-1-to-3", 2, (3,), "--stage 1 --two --freeze --tie --sched", 3),
    turned("stage-3-to-1", 3, (2,), "--stage 3 --two --freeze --tie --sched", 1),
    turned("stage-1-to-2", 2, (2, 3), "--stage 1 --two --freeze --tie", 2),
    turned("stage-2-to-1", 3, (4,), "--stage 2 --two --freeze --tie", 1),
    turned("stage-2-to-3-fp16-sub-groups", 3, (4,), "--stage 2 --dtype fp16 --two --sub 300", 3,
           dtype="fp16"),
    turned("stage-3-to-2-fp16-sub-groups", 4, (3,), "--stage 3 --dtype fp16 --two --sub 300", 2,
           dtype="fp16"),
    turned("stage-2-to-3-bf16", 2, (3,), "--stage 2 --dtype bf16 --two --clip", 3, dtype="bf16"),
    turned("stage-3-to-2-bf16", 3, (4,), "--stage 3 --dtype bf16 --two --clip", 2, dtype="bf16"),
    turned("stage-3-to-1-bf16-optimizer", 3, (2,), "--stage 3 --dtype bf16 --gad fp32 --two", 1,
           dtype="bf16"),
    turned("stage-1-to-3-bf16-optimizer", 2, (3,), "--stage 1 --dtype bf16 --gad fp32 --two", 3,
           dtype="bf16"),
    turned("stage-1-to-2-bf16-optimizer", 2, (3,), "--stage 1 --dtype bf16 --gad fp32 --two", 2,
           dtype="bf16"),
    turned("stage-2-to-1-bf16-optimizer", 3, (2,), "--stage 2 --dtype bf16 --gad fp32 --two", 1,
           dtype="bf16"),
    turned("stage-3-to-2-round-robin", 2, (3,), "--stage 3 --round_robin --two", 2),
    turned("stage-2-to-3-round-robin", 3, (2,), "--stage 2 --round_robin --two", 3),
    turned("stage-2-to-3-sgd-plain", 2, (3,), "--stage 2 --opt sgd0 --two", 3),
    turned("stage-3-to-2-sgd-plain", 3, (2,), "--stage 3 --opt sgd0 --two", 2),
    Case("moe-z2-ep2-bf16", 4, (2, 8), "--ep 2 --experts 4 --stage 2 --dtype bf16", small=(6,),
         script="train_moe.py", dtype="bf16"),
    Case("moe-z1-ep4", 4, (8,),
         "--ep 4 --experts 4 --stage 1 --dtype fp32 --aux 0 --vocab 19 --d 6 --m 5", script=EXPERTS),
    Case("moe-z1-ep2-bf16-optimizer", 4, (2, 6),
         "--ep 2 --experts 4 --stage 1 --dtype bf16 --gad fp32 --aux 0 --vocab 19 --d 6 --m 5",
         script=EXPERTS, dtype="bf16"),
    Case("moe-z2-data-first", 4, (2, 8),
         "--ep 2 --experts 2 --stage 2 --dtype fp32 --data_first --aux 0 --vocab 19 --d 6 --m 5",
         script=EXPERTS),
    Case("moe-z2-fp16-round-robin", 4, (2, 6),
         "--ep 2 --experts 2 --stage 2 --dtype fp16 --round_robin --layers 2 --aux 0 --vocab 19"
         " --d 6 --m 5", script=EXPERTS, dtype="fp16"),
    Case("moe-z2-ep1", 3, (2, 4),
         "--ep 1 --experts 2 --stage 2 --dtype fp32 --aux 0 --vocab 19 --d 6 --m 5", script=EXPERTS),
    Case("pp2-z1", 2, (2, 3, 4), "--pp 2", small=(1,), script="train_pipeline.py", degree=2),
    Case("pp2-z1-bf16", 2, (1, 3), "--pp 2 --dtype bf16", script="train_pipeline.py", degree=2,
         dtype="bf16"),
    Case("tp2-z1-bf16", 2, (1, 3), "--tp 2", script="train_tensor_parallel.py", degree=2,
         dtype="bf16"),
    Case("tp2-z2-fp32", 3, (1, 2, 4), "--tp 2 --stage 2 --dtype fp32",
         script="train_tensor_parallel.py", degree=2),
    grid("grid-2x2x2-to-8", 2, 2, 2, (1, 1, 8)),
    grid("grid-3-to-2x2", 1, 1, 3, (2, 2, 1), small=True),
    grid("grid-2x2-to-3", 2, 2, 1, (1, 1, 3), dtype="bf16"),
    grid("grid-pp3-to-tp3", 3, 1, 1, (1, 3, 1), dtype="bf16"),
    grid("grid-tp2-to-pp2", 1, 2, 2, (2, 1, 3)),
    tensor("tp2-z1-to-4", 2, 2, (4, 1), "--stage 1", reshard=("--kvHeads=0",), small=True),
    tensor("tp2-z2-to-1", 2, 2, (1, 3), "--stage 2 --dtype bf16", dtype="bf16"),
    tensor("tp2-z3-to-4", 2, 2, (4, 1), "--stage 3", reshard=("--kvHeads=0",)),
    tensor("tp2-llama-to-3", 2, 1, (3, 2), "--stage 1 --model llama", reshard=("--kvHeads=4",)),
    tensor("tp2-z1-to-4-at-z3", 2, 2, (4, 1), "--stage 1", reshard=("--kvHeads=0",), stage=3),
    tensor("tp2-z3-to-1-at-z2", 2, 2, (1, 3), "--stage 3 --dtype bf16", dtype="bf16", stage=2),
    tensor("tp2-z2-to-3-frozen", 2, 2, (3, 1), "--stage 2 --model frozen", reshard=("--kvHeads=0",)),
    tensor("tp2-z3-to-3-frozen", 2, 2, (3, 1), "--stage 3 --model frozen --dtype bf16", dtype="bf16",
           reshard=("--kvHeads=0",)),
    tensor("tp3-z1-to-2-at-z3-frozen", 3, 1, (2, 2), "--stage 1 --model frozen", reshard=("--kvHeads=0",), stage=3),
    experts("ep2-to-1", 4, (4, 1), "--ep 2 --stage 2 --layers 2"),
    experts("ep2-to-4", 4, (4, 4), "--ep 2 --stage 1 --layers 2 --dtype bf16", dtype="bf16"),
    experts("ep2-to-4-on-8", 4, (8, 4), "--ep 2 --stage 2"),
    Case("accelerate-z2", 2, (1, 3), "--stage 2", small=(4,), script="train_accelerate.py"),
    # The snippets of docs/user-shards.md.
    Case("guide-z2", 4, (1, 3, 6), "--stage 2", small=(2,), script="train_guide.py", reshard=MODEL),
    Case("guide-z1", 2, (3,), "--stage 1", script="train_guide.py", reshard=MODEL),
    Case("guide-z2-bf16", 2, (1, 4), "--stage 2 --dtype bf16", script="train_guide.py",
         dtype="bf16", reshard=MODEL),
    Case("guide-z1-bf16-optimizer", 2, (3,), "--stage 1 --dtype bf16 --gad fp32",
         script="train_guide.py", dtype="bf16", reshard=MODEL),
    Case("guide-z2-fp16", 2, (3,), "--stage 2 --dtype fp16", script="train_guide.py", dtype="fp16",
         reshard=MODEL),
    Case("guide-z2-round-robin", 2, (3,), "--stage 2 --round_robin", script="train_guide.py",
         reshard=MODEL),
    Case("guide-z2-sgd-plain", 2, (3,), "--stage 2 --opt sgd", script="train_guide.py",
         reshard=MODEL),
    Case("guide-z2-order-on-trust", 2, (4,), "--stage 2", script="train_guide.py"),
    Case("guide-z3", 2, (1, 4), "--stage 3", small=(3,), script="train_guide.py", reshard=MODEL),
    Case("guide-z3-bf16", 4, (2, 3), "--stage 3 --dtype bf16", script="train_guide.py",
         dtype="bf16", reshard=MODEL),
    Case("guide-z2-sanitized", 3, (2,), "--stage 2 --sanitized", script="train_guide.py",
         reshard=MODEL + ("--sanitize",)),
    Case("guide-z2-fp16-sanitized", 2, (3,), "--stage 2 --dtype fp16 --sanitized",
         script="train_guide.py", dtype="fp16", reshard=MODEL + ("--sanitize",)),
    Case("guide-z1-bf16-optimizer-sanitized", 2, (3,), "--stage 1 --dtype bf16 --gad fp32 --sanitized",
         script="train_guide.py", dtype="bf16", reshard=MODEL + ("--sanitize",)),
    Case("guide-in-future", 2, (3,), "--stage 2 --future", script="train_guide.py"),
    Case("hf-trainer-z2", 2, (1, 4), "--stage 2", small=(3,), script="train_trainer.py",
         checkpoint="checkpoint-3"),
)

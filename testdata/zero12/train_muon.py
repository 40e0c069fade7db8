"""../corpus/train.py with DeepSpeed's Muon for matrices and its own Adam for the rest.

    train_muon.py [--named] TRAIN_ARGS... [--truth FILE]

`--named` names Muon in the DeepSpeed configuration; without it the optimizer is handed to
`deepspeed.initialize`. The truth is what every rank has in memory when it saves: Muon's momentum
as each rank that has any of a parameter holds it, whole, after a check that these are the same.
"""
import os, sys, runpy
import torch, torch.multiprocessing as mp

TRAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'corpus', 'train.py')


def captured(argv):
    found = []
    spawn, mp.spawn = mp.spawn, lambda function, args, nprocs: found.append((function, args))
    argv, sys.argv = sys.argv, [TRAIN, *argv]
    try:
        runpy.run_path(TRAIN, run_name='__main__')
    finally:
        mp.spawn, sys.argv = spawn, argv
    return found[0]


def muon(groups):
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam
    found = []
    for matrices in (True, False):
        params = [p for g in groups for p in g['params'] if (p.ndim > 1) == matrices]
        for p in params:
            p.use_muon = matrices
        if params:
            found.append({'params': params, 'lr': 0.02 if matrices else 0.01, 'use_muon': matrices})
    return MuonWithAuxAdam(found)


def truth(engine, path):
    import torch.distributed as dist
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
    opt = engine.optimizer
    opt._hp_optimizer_states_linked = False
    opt._lazy_init_hp_params_optimizer_state()
    names = {id(p): n for n, p in engine.module.named_parameters()}
    mine = {}
    for i, params in enumerate(opt.params_in_partition):
        state = opt.optimizer.state.get(opt.single_partition_of_fp32_groups[i], {})
        if 'momentum_buffer' in state:
            parts = state['momentum_buffer'].split([p.numel() for p in params])
            mine.update({names[id(p)] + '.momentum_buffer': t.view(p.shape).clone() for p, t in zip(params, parts)})
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, mine)
    full = {}
    for of_rank in everyones:
        for name, momentum in of_rank.items():
            assert torch.equal(full.setdefault(name, momentum), momentum), name
    for name, p in engine.module.named_parameters():
        full[name + '.fp32'] = safe_get_full_fp32_param(p)
        if not p.use_muon:
            for key in ('exp_avg', 'exp_avg_sq'):
                full[name + '.' + key] = safe_get_full_optimizer_state(p, key)
    if dist.get_rank() == 0:
        from safetensors.torch import save_file
        save_file({k: v.detach().clone().contiguous() for k, v in full.items()}, path)


def run(rank, argv, named, path):
    function, (world, a) = captured(argv)
    import deepspeed
    from deepspeed import initialize as original

    def initialize(model, optimizer, config, **kwargs):
        if named:
            config['optimizer'] = {'type': 'Muon', 'params': {'lr': 0.02, 'adam_lr': 0.01}}
            found = original(model=model, model_parameters=model.parameters(), config=config, **kwargs)
        else:
            found = original(model=model, optimizer=muon(optimizer.param_groups), config=config, **kwargs)
        engine, save = found[0], found[0].save_checkpoint

        def save_checkpoint(*args, **more):
            if path:
                truth(engine, path)
            return save(*args, **more)

        engine.save_checkpoint = save_checkpoint
        return found

    deepspeed.initialize = initialize
    function(rank, world, a)


if __name__ == '__main__':
    argv = sys.argv[1:]
    named = '--named' in argv
    argv = [x for x in argv if x != '--named']
    path = None
    if '--truth' in argv:
        at = argv.index('--truth')
        path = argv[at + 1]
        del argv[at:at + 2]
    torch.set_num_threads(1)
    world = captured(argv)[1][0]
    mp.spawn(run, args=(argv, named, path), nprocs=world)

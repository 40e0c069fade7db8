import os, sys, re, json, argparse, torch, torch.nn as nn, torch.distributed as dist, torch.multiprocessing as mp
os.environ.setdefault('DS_ACCELERATOR','cpu')
def cpu_only():
    """Let DeepSpeed train on a plain CPU: no JIT-compiled shared-memory collectives, and fp16 without AMX."""
    from deepspeed.accelerator import get_accelerator
    type(get_accelerator()).is_fp16_supported = lambda self: True
    try:
        import deepspeed.comm.torch  # noqa: F401
        sys.modules['deepspeed.comm.torch'].build_shm_op = lambda: None
    except Exception: pass
def run(rank, world, a):
    os.environ.update(RANK=str(rank),LOCAL_RANK=str(rank),WORLD_SIZE=str(world),MASTER_ADDR='127.0.0.1',MASTER_PORT=str(a.port),LOCAL_SIZE=str(world))
    sys.path.insert(0,os.path.join(os.path.dirname(os.path.abspath(__file__)),'../../scripts/interop.d')); import old_deepspeed, deepspeed
    from deepspeed.moe.layer import MoE
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer, is_moe_param
    cpu_only()
    deepspeed.init_distributed('gloo')
    torch.manual_seed(a.seed)
    V,d,m=a.vocab,a.d,a.m
    class Exp(nn.Module):
        def __init__(s): super().__init__(); s.fc=nn.Linear(d,m); s.out=nn.Linear(m,d,bias=a.out_bias); s.register_buffer('scale',torch.ones(3)) if a.buffers else None
        def forward(s,x): return s.out(torch.relu(s.fc(x)))
    def mk(ep): return MoE(d,Exp(),num_experts=a.experts,ep_size=ep,k=1,capacity_factor=8.0,min_capacity=0,use_rts=False,use_residual=a.residual)
    class Net(nn.Module):
        def __init__(s):
            super().__init__(); s.emb=nn.Embedding(V,d); s.moe=mk(a.ep)
            if a.layers==2: s.moe2=mk(a.ep2 or a.ep)
            s.ln=nn.LayerNorm(d); s.head=nn.Linear(d,V,bias=False)
            if a.tied: s.head.weight=s.emb.weight
            if a.buffers: s.register_buffer('table',torch.arange(5.0))
            if a.frozen: s.adapter=nn.Linear(d,d); s.adapter.requires_grad_(False)
        def forward(s,x,y):
            h=s.emb(x); o,aux,_=s.moe(h)
            if a.layers==2: o2,aux2,_=s.moe2(h+o); o=o+o2; aux=aux+aux2
            h=s.ln(h+o)
            if a.frozen: h=h+s.adapter(h)
            return nn.functional.cross_entropy(s.head(h).float().flatten(0,1),y.flatten())+a.aux*aux
    net=Net()
    if a.frozen:
        for n,p in net.named_parameters():
            if 'deepspeed_experts' in n and n.endswith('fc.bias'): p.requires_grad_(False)
    named=[(n,p) for n,p in net.named_parameters() if p.requires_grad]
    if a.zero_bias:
        for n,p in named:
            if n.endswith('bias') and 'expert' in n: p.data.zero_()
    if a.two:
        groups=[{'params':[p for n,p in named if p.dim()>1],'name':'decay','weight_decay':0.1},{'params':[p for n,p in named if p.dim()<=1],'name':'plain','weight_decay':0.0}]
    elif a.reverse: groups={'params':[p for n,p in reversed(named)],'name':'parameters'}
    else: groups={'params':[p for n,p in named],'name':'parameters'}
    params=split_params_into_different_moe_groups_for_optimizer(groups,**({'max_group_size':a.group} if a.group else {}))
    cfg={'train_batch_size':24,'zero_optimization':{'stage':a.stage},'zero_allow_untested_optimizer':True,'steps_per_print':1000}
    if a.dtype=='bf16': cfg['bf16']={'enabled':True}
    if a.dtype=='fp16': cfg['fp16']={'enabled':True,'initial_scale_power':8,'loss_scale_window':2}
    if a.gad: cfg['data_types']={'grad_accum_dtype':a.gad}
    if a.round_robin: cfg['zero_optimization']['round_robin_gradients']=True
    if a.data_first: cfg['use_data_before_expert_parallelism']=True
    if a.elastic: cfg['zero_optimization']['elastic_checkpoint']=True
    if a.config_file:
        if rank==0: json.dump(cfg,open(a.config_file,'w'))
        dist.barrier(); cfg=a.config_file
    O=torch.optim.SGD(params,lr=1e-2) if a.sgd else torch.optim.AdamW(params,lr=1e-2)
    eng,opt,_,_=deepspeed.initialize(model=net,optimizer=O,config=cfg)
    if a.load:
        r=eng.load_checkpoint(a.load,tag=a.tag); assert r[0] is not None
        if rank==0: print('LOADED',r[0])
    out=[]
    def steps(s0,n):
        for s in range(s0,s0+n):
            gen=torch.Generator().manual_seed(1000+s); x=torch.randint(0,V,(24,5),generator=gen); y=torch.randint(0,V,(24,5),generator=gen)
            per=24//world; x=x[rank*per:(rank+1)*per]; y=y[rank*per:(rank+1)*per]
            l=eng(x,y); eng.backward(l); eng.step(); t=l.detach().float().clone(); dist.all_reduce(t); out.append(t.item()/world)
    def exchange(path,put=None):
        '''Full masters and states under GLOBAL expert names, read from the optimizer's flat partitions in memory, not from files; or put there.'''
        from deepspeed.utils import groups
        names={p:n for n,p in eng.module.named_parameters()}
        size={}
        for n,mod in eng.module.named_modules():
            if isinstance(mod,MoE): size[n]=(mod.num_local_experts,groups._get_expert_parallel_rank(mod.expert_group_name))
        def glob(n):
            for k,(local,r) in size.items():
                if n.startswith(k+'.deepspeed_moe.experts'): return re.sub(r'deepspeed_experts\.(\d+)',lambda q:'deepspeed_experts.%d'%(int(q.group(1))+r*local),n)
            return n
        T={}
        bf=hasattr(opt,'bf16_groups')
        masters=opt.fp32_groups_flat_partition if bf else opt.single_partition_of_fp32_groups
        for g,master in enumerate(masters):
            pg=opt.real_dp_process_group[g]; W=dist.get_world_size(group=pg)
            order=opt.bf16_groups[g] if bf else opt.round_robin_bit16_groups[g]
            states={'fp32':master.detach()}
            states.update({k:v for k,v in opt.optimizer.state[opt.optimizer.param_groups[g]['params'][0]].items() if torch.is_tensor(v) and v.numel()==master.numel()})
            for s,v in states.items():
                if put:
                    flat=torch.zeros(W*v.numel(),dtype=v.dtype); at=0
                    for p in order:
                        n=glob(names[p]); flat[at:at+p.numel()]=put[n+'.'+s].flatten(); at+=p.numel(); p.data.copy_(put[n+'.module'])
                    i=dist.get_rank(group=pg); v.copy_(flat[i*v.numel():(i+1)*v.numel()]); continue
                parts=[torch.empty_like(v) for _ in range(W)]; dist.all_gather(parts,v.detach().contiguous(),group=pg)
                flat=torch.cat(parts); at=0
                for p in order:
                    T[glob(names[p])+'.'+s]=flat[at:at+p.numel()].clone().view(p.shape); at+=p.numel()
                    T[glob(names[p])+'.module']=p.detach().clone()
        if put: return
        every=[None]*world; dist.all_gather_object(every,T)
        if rank==0:
            full={}
            for t in every:
                for k,v in t.items():
                    assert k not in full or torch.equal(full[k],v), k
                    full[k]=v.contiguous()
            from safetensors.torch import save_file
            save_file(full,path)
    steps(a.start,a.steps)
    if a.overwrite:
        '''A reference: this run trained at M ranks; put the source's exact values into its place, then save.'''
        from safetensors.torch import load_file
        with torch.no_grad(): exchange(None,load_file(a.overwrite))
    if a.truth: exchange(a.truth)
    if a.save: eng.save_checkpoint(a.save,tag='global_step3')
    steps(a.start+a.steps,a.more)
    if rank==0: print('LOSS',json.dumps(out))
if __name__=='__main__':
    p=argparse.ArgumentParser()
    for n,t,d in [('world',int,4),('ep',int,2),('ep2',int,0),('experts',int,4),('stage',int,2),('dtype',str,'bf16'),('steps',int,3),('more',int,0),('start',int,0),('port',int,29741),('save',str,None),('load',str,None),('tag',str,None),('seed',int,3),('truth',str,None),('gad',str,None),('layers',int,1),('group',int,0),('vocab',int,37),('d',int,12),('m',int,20),('aux',float,0.01),('config_file',str,None),('overwrite',str,None)]: p.add_argument('--'+n,type=t,default=d)
    for n in ['round_robin','data_first','two','tied','frozen','buffers','residual','reverse','zero_bias','out_bias','sgd','elastic']: p.add_argument('--'+n,action='store_true')
    a=p.parse_args(); torch.set_num_threads(1)
    mp.spawn(run,args=(a.world,a),nprocs=a.world)

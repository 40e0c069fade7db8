import os, sys, json, argparse
import torch, torch.nn as nn, torch.distributed as dist, torch.multiprocessing as mp
os.environ.setdefault('DS_ACCELERATOR','cpu')
class Block(nn.Module):
    def __init__(s,d,m):
        super().__init__(); s.ln=nn.LayerNorm(d); s.fc=nn.Linear(d,m); s.out=nn.Linear(m,d,bias=False)
    def forward(s,x): return x+s.out(torch.relu(s.fc(s.ln(x))))
class Net(nn.Module):
    def __init__(s,V=37,d=13,m=40,L=2,tie=False,freeze=False):
        super().__init__(); s.emb=nn.Embedding(V,d); s.blocks=nn.ModuleList([Block(d,m) for _ in range(L)]); s.head=nn.Linear(d,V,bias=False)
        s.register_buffer('scale',torch.tensor(1.5))
        if tie: s.head.weight=s.emb.weight
        if freeze:
            s.blocks[0].fc.weight.requires_grad_(False); s.blocks[0].ln.bias.requires_grad_(False)
    def forward(s,x,y):
        h=s.emb(x)
        for b in s.blocks: h=b(h)
        return nn.functional.cross_entropy(s.head(h*s.scale.to(h.dtype)).float().flatten(0,1), y.flatten())
class Odd(nn.Module):
    '''Parameters of its own beside child modules, buffers of several dtypes and sizes, a parameter smaller than the ranks.'''
    def __init__(s,V=11,d=5,m=6,tie=False,freeze=False):
        super().__init__(); s.emb=nn.Embedding(V,d); s.gain=nn.Parameter(torch.ones(3)); s.blocks=nn.ModuleList([Block(d,m)]); s.shift=nn.Parameter(torch.zeros(d)); s.head=nn.Linear(d,V,bias=False)
        s.register_buffer('table',torch.arange(7,dtype=torch.float32).reshape(7,1)); s.register_buffer('count',torch.arange(4)); s.register_buffer('mask',torch.tensor([True,False,True])); s.register_buffer('scratch',torch.ones(2),persistent=False)
        if tie: s.head.weight=s.emb.weight
        if freeze: s.blocks[0].fc.weight.requires_grad_(False); s.blocks[0].ln.bias.requires_grad_(False)
    def forward(s,x,y):
        h=s.emb(x)*s.gain.mean()+s.shift
        for b in s.blocks: h=b(h)
        return nn.functional.cross_entropy(s.head(h).float().flatten(0,1), y.flatten())
def groups(m, two):
    if not two: return [p for p in m.parameters() if p.requires_grad]
    dec=[p for n,p in m.named_parameters() if p.requires_grad and len(getattr(p,'ds_shape',p.shape))>1]; nod=[p for n,p in m.named_parameters() if p.requires_grad and len(getattr(p,'ds_shape',p.shape))<=1]
    return [{'params':dec,'weight_decay':0.1},{'params':nod,'weight_decay':0.0,'lr':2e-2}]
def cpu_only():
    """Let DeepSpeed train on a plain CPU: no JIT-compiled shared-memory collectives, and fp16 without AMX."""
    import deepspeed.comm.torch  # noqa: F401
    from deepspeed.accelerator import get_accelerator
    sys.modules['deepspeed.comm.torch'].build_shm_op = lambda: None
    type(get_accelerator()).is_fp16_supported = lambda self: True
def run(rank, world, a):
    os.environ.update(RANK=str(rank),LOCAL_RANK=str(rank),WORLD_SIZE=str(world),MASTER_ADDR='127.0.0.1',MASTER_PORT=str(a.port))
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
    cpu_only()
    deepspeed.init_distributed('gloo')
    torch.manual_seed(a.seed)
    z={'stage':a.stage}
    if a.round_robin: z['round_robin_gradients']=True
    if a.stage==3: z['stage3_param_persistence_threshold']=a.persist
    if a.sub: z['sub_group_size']=a.sub
    if a.elastic: z['elastic_checkpoint']=True
    if a.param_offload: z['offload_param']={'device':'cpu'}
    if a.hpz: z['zero_hpz_partition_size']=a.hpz
    if a.offload: z['offload_optimizer']={'device':'cpu'}
    cfg={'train_batch_size':24,'zero_optimization':z,'zero_allow_untested_optimizer':True,'zero_force_ds_cpu_optimizer':False,'steps_per_print':1000}
    if a.dtype=='bf16':
        cfg['bf16']={'enabled':True}
        if a.gad: cfg['data_types']={'grad_accum_dtype':a.gad}
    if a.dtype=='fp16': cfg['fp16']={'enabled':True,'initial_scale_power':a.scale,'loss_scale_window':2}
    if a.universal: cfg['checkpoint']={'load_universal':True}
    if a.clip: cfg['gradient_clipping']=1.0
    ctx=deepspeed.zero.Init(config_dict_or_path=cfg) if (a.stage==3 and a.zinit) else None
    if ctx: ctx.__enter__()
    m=Odd(V=a.vocab,d=a.d,m=a.m,tie=a.tie,freeze=a.freeze) if a.odd else Net(V=a.vocab,d=a.d,m=a.m,L=a.layers,tie=a.tie,freeze=a.freeze)
    if ctx: ctx.__exit__(None,None,None)
    g=groups(m,a.two)
    O={'adamw':lambda: torch.optim.AdamW(g,lr=1e-2),'amsgrad':lambda: torch.optim.AdamW(g,lr=1e-2,amsgrad=True),'sgd':lambda: torch.optim.SGD(g,lr=1e-2,momentum=0.9),'sgd0':lambda: torch.optim.SGD(g,lr=1e-2),'adagrad':lambda: torch.optim.Adagrad(g,lr=1e-2),'rmsprop':lambda: torch.optim.RMSprop(g,lr=1e-3,momentum=0.5)}[a.opt]()
    sch=torch.optim.lr_scheduler.StepLR(O,2,0.9) if a.sched else None
    if a.cfgfile:
        json.dump(cfg,open(a.cfgfile,'w')) if rank==0 else None; dist.barrier(); cfg=a.cfgfile
    eng,opt,_,_=deepspeed.initialize(model=m,optimizer=O,config=cfg,lr_scheduler=sch)
    if a.load:
        r=eng.load_checkpoint(a.load, tag=a.tag)
        assert r[0] is not None, 'load failed'
        if rank==0: print('LOADED', r[0], 'client', {k:v for k,v in r[1].items() if k in('step','mydata')})
    if a.userload:
        sd=torch.load(os.path.join(a.userload,'pytorch_model.bin'),weights_only=False); eng.module.load_state_dict(sd)
        opt.load_state_dict([torch.load(os.path.join(a.userload,'optimizer.%02d.pt'%i),weights_only=False) for i in range(world)], load_from_fp32_weights=True)
    out=[]
    def batch(step):
        gen=torch.Generator().manual_seed(1000+step); x=torch.randint(0,a.vocab,(24,5),generator=gen); y=torch.randint(0,a.vocab,(24,5),generator=gen)
        per=24//world; return x[rank*per:(rank+1)*per], y[rank*per:(rank+1)*per]
    def truth(path):
        if hasattr(opt,'_hp_optimizer_states_linked'): opt._hp_optimizer_states_linked=False; opt._lazy_init_hp_params_optimizer_state()
        T={}
        for n,p in m.named_parameters():
            if not p.requires_grad: continue
            v=safe_get_full_fp32_param(p); T[n+'.fp32']=v
            keys=set()
            st=opt.optimizer.state
            for q in st.values(): keys|={k for k,x in q.items() if torch.is_tensor(x) and x.numel()>1}
            for k in sorted(keys): T[n+'.'+k]=safe_get_full_optimizer_state(p,k)
        if rank==0:
            from safetensors.torch import save_file
            save_file({k:v.detach().float().clone().contiguous().view(m_shape(k)) for k,v in T.items() if v is not None},path)
    shapes={n:tuple(getattr(p,'ds_shape',p.shape)) for n,p in m.named_parameters()}
    def m_shape(k): return shapes[k.rsplit('.',1)[0]]
    for s in range(a.start,a.start+a.steps):
        x,y=batch(s); l=eng(x,y); eng.backward(l); eng.step()
        t=l.detach().float().clone(); dist.all_reduce(t); out.append(t.item()/world)
    if a.overwrite:
        '''Make a reference: this run trained at M ranks; put the source's exact values into its place, then save.'''
        from safetensors.torch import load_file
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state
        T=load_file(a.overwrite)
        for n,p in m.named_parameters():
            for k in [k for k in T if k.rsplit('.',1)[0]==n]:
                s=k.rsplit('.',1)[1]; each=-(-T[k].numel()//world)
                v=torch.cat([T[k].flatten(),torch.zeros(each*world-T[k].numel())])[rank*each:(rank+1)*each]
                safe_set_local_fp32_param(p,v) if s=='fp32' else safe_set_local_optimizer_state(p,v,s)
    if a.save: eng.save_checkpoint(a.save, tag=a.savetag or ('global_step%d'%(a.start+a.steps)), client_state={'mydata':{'epoch':3,'name':'x','rank':rank} if a.rank_state else {'epoch':3,'name':'x'}})
    if a.user:
        os.makedirs(a.user,exist_ok=True); torch.save(opt.state_dict(), os.path.join(a.user,'optimizer.%02d.pt'%rank))
        if rank==0: torch.save({k:v.clone() for k,v in eng.module.state_dict().items()}, os.path.join(a.user,'pytorch_model.bin'))
    if a.truth: truth(a.truth)
    for s in range(a.start+a.steps,a.start+a.steps+a.more):
        x,y=batch(s); l=eng(x,y); eng.backward(l); eng.step()
        t=l.detach().float().clone(); dist.all_reduce(t); out.append(t.item()/world)
    if rank==0: print('LOSS',json.dumps(out))
if __name__=='__main__':
    p=argparse.ArgumentParser()
    for n,t,d in [('world',int,2),('stage',int,2),('dtype',str,'fp32'),('gad',str,None),('opt',str,'adamw'),('steps',int,3),('more',int,0),('start',int,0),('port',int,29511),('save',str,None),('savetag',str,None),('load',str,None),('tag',str,None),('user',str,None),('userload',str,None),('truth',str,None),('vocab',int,37),('d',int,13),('m',int,40),('layers',int,2),('persist',int,20),('sub',int,0),('seed',int,1),('scale',int,8),('hpz',int,0),('cfgfile',str,None),('overwrite',str,None)]: p.add_argument('--'+n,type=t,default=d)
    for n in ['two','tie','freeze','elastic','universal','clip','round_robin','offload','zinit','sched','odd','param_offload','rank_state']: p.add_argument('--'+n,action='store_true')
    a=p.parse_args(); torch.set_num_threads(1)
    mp.spawn(run,args=(a.world,a),nprocs=a.world)

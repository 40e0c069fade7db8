import os, sys, json, argparse, torch, torch.nn as nn, torch.distributed as dist, torch.multiprocessing as mp
os.environ.setdefault('DS_ACCELERATOR','cpu')
def cpu_only():
    """Let DeepSpeed train on a plain CPU: no JIT-compiled shared-memory collectives, and fp16 without AMX."""
    import deepspeed.comm.torch  # noqa: F401
    from deepspeed.accelerator import get_accelerator
    sys.modules['deepspeed.comm.torch'].build_shm_op = lambda: None
    type(get_accelerator()).is_fp16_supported = lambda self: True
def run(rank, world, a):
    os.environ.update(RANK=str(rank),LOCAL_RANK=str(rank),WORLD_SIZE=str(world),MASTER_ADDR='127.0.0.1',MASTER_PORT=str(a.port),LOCAL_SIZE=str(world))
    import deepspeed
    from deepspeed.moe.layer import MoE
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer
    cpu_only()
    deepspeed.init_distributed('gloo')
    torch.manual_seed(a.seed)
    V,d,m=a.vocab,a.d,a.m
    class Exp(nn.Module):
        def __init__(s): super().__init__(); s.fc=nn.Linear(d,m); s.out=nn.Linear(m,d,bias=False)
        def forward(s,x): return s.out(torch.relu(s.fc(x)))
    def mk(): return MoE(d,Exp(),num_experts=a.experts,ep_size=a.ep,k=1,capacity_factor=8.0,min_capacity=0,use_rts=False)
    class Net(nn.Module):
        def __init__(s):
            super().__init__(); s.emb=nn.Embedding(V,d); s.moe=mk()
            if a.layers==2: s.moe2=mk()
            s.ln=nn.LayerNorm(d); s.head=nn.Linear(d,V,bias=False)
        def forward(s,x,y):
            h=s.emb(x); o,aux,_=s.moe(h)
            if a.layers==2: o2,aux2,_=s.moe2(h+o); o=o+o2; aux=aux+aux2
            h=s.ln(h+o)
            return nn.functional.cross_entropy(s.head(h).float().flatten(0,1),y.flatten())+a.aux*aux
    net=Net()
    params=split_params_into_different_moe_groups_for_optimizer({'params':list(net.parameters()),'name':'parameters'},**({'max_group_size':a.group} if a.group else {}))
    cfg={'train_batch_size':24,'zero_optimization':{'stage':a.stage},'zero_allow_untested_optimizer':True,'steps_per_print':1000}
    if a.dtype=='bf16': cfg['bf16']={'enabled':True}
    if a.dtype=='fp16': cfg['fp16']={'enabled':True,'initial_scale_power':8,'loss_scale_window':2}
    if a.gad: cfg['data_types']={'grad_accum_dtype':a.gad}
    if a.round_robin: cfg['zero_optimization']['round_robin_gradients']=True
    if a.data_first: cfg['use_data_before_expert_parallelism']=True
    O=torch.optim.AdamW(params,lr=1e-2)
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
    def truth(path):
        '''Full fp32 masters and states under GLOBAL expert names, read from DeepSpeed's memory, not from the files.'''
        import re
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state, groups
        if hasattr(opt,'_hp_optimizer_states_linked'): opt._hp_optimizer_states_linked=False; opt._lazy_init_hp_params_optimizer_state()
        ep_rank=groups._get_expert_parallel_rank('ep_size_%d'%a.ep); local=a.experts//a.ep
        T={}
        for n,p in net.named_parameters():
            g=re.sub(r'deepspeed_experts\.(\d+)',lambda k:'deepspeed_experts.%d'%(int(k.group(1))+ep_rank*local),n)
            T[g+'.fp32']=safe_get_full_fp32_param(p).detach().float().clone().view(p.shape)
            T[g+'.module']=p.detach().clone()
            for k in ('exp_avg','exp_avg_sq'): T[g+'.'+k]=safe_get_full_optimizer_state(p,k).detach().float().clone().view(p.shape)
        every=[None]*world; dist.all_gather_object(every,T)
        if rank==0:
            from safetensors.torch import save_file
            out={}
            for t in every:
                for k,v in t.items():
                    assert k not in out or torch.equal(out[k],v), k
                    out[k]=v.contiguous()
            save_file(out,path)
    steps(a.start,a.steps)
    if a.overwrite:
        '''Make a reference: this run trained at M ranks; put the source's exact values into its place, then save.'''
        import re
        from safetensors.torch import load_file
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state, groups
        if hasattr(opt,'_hp_optimizer_states_linked'): opt._hp_optimizer_states_linked=False; opt._lazy_init_hp_params_optimizer_state()
        T=load_file(a.overwrite); ep_rank=groups._get_expert_parallel_rank('ep_size_%d'%a.ep); local=a.experts//a.ep
        for n,p in net.named_parameters():
            g=re.sub(r'deepspeed_experts\.(\d+)',lambda k:'deepspeed_experts.%d'%(int(k.group(1))+ep_rank*local),n)
            safe_set_full_fp32_param(p,T[g+'.fp32'])
            for k in ('exp_avg','exp_avg_sq'): safe_set_full_optimizer_state(p,T[g+'.'+k],k)
            p.data.copy_(T[g+'.module'])
    if a.save: eng.save_checkpoint(a.save,tag='global_step3')
    if a.truth: truth(a.truth)
    steps(a.start+a.steps,a.more)
    if rank==0: print('LOSS',json.dumps(out))
if __name__=='__main__':
    p=argparse.ArgumentParser()
    for n,t,d in [('world',int,4),('ep',int,2),('experts',int,4),('stage',int,2),('dtype',str,'bf16'),('steps',int,3),('more',int,3),('start',int,0),('port',int,29541),('save',str,None),('load',str,None),('tag',str,None),('seed',int,3),('truth',str,None),('gad',str,None),('layers',int,1),('group',int,0),('overwrite',str,None),('vocab',int,37),('d',int,12),('m',int,20),('aux',float,0.01)]: p.add_argument('--'+n,type=t,default=d)
    for n in ['round_robin','data_first']: p.add_argument('--'+n,action='store_true')
    a=p.parse_args(); torch.set_num_threads(1)
    mp.spawn(run,args=(a.world,a),nprocs=a.world)

import torch, sys, os
from tests.distributed import run_ranks
def go(lora):
    import torch
    from lightning import Trainer
    from emu2_lit.model import Emu2Config, Emu2Processor
    from emu2_lit.modules import ChatTuning
    from emu2_lit.settings import LoraSettings
    from emu2_lit.strategies.choose import build_strategy
    from emu2_lit.strategies.shard import whole
    from emu2_lit.recipe.schema import TrainerSection
    cfg=Emu2Config.preset("tiny")
    proc=Emu2Processor.for_config(cfg.with_role_tokens())
    mk=lambda: ChatTuning(Emu2Config.preset("tiny"), proc, lora=LoraSettings(rank=4) if lora else None)
    a=mk(); a.configure_model()
    b=mk()
    w=int(os.environ["WORLD_SIZE"])
    t=Trainer(accelerator="cpu",devices=w,strategy=build_strategy("fsdp",TrainerSection()),logger=False,enable_checkpointing=False,barebones=False)
    t.strategy.connect(b); t.strategy.setup_environment(); 
    b._trainer=t
    b.configure_model()
    A=dict(a.model.named_parameters()); B=dict(b.model.named_parameters())
    bad=[]
    if A.keys()!=B.keys(): bad.append(("keys",set(A)^set(B)))
    for n in A:
        f=whole(B[n].detach())
        if not torch.equal(f,A[n]) or A[n].requires_grad!=B[n].requires_grad: bad.append((n,A[n].requires_grad, (f-A[n]).abs().max().item()))
    A=dict(a.model.named_buffers()); B=dict(b.model.named_buffers())
    if A.keys()!=B.keys(): bad.append(("bkeys",set(A)^set(B)))
    for n in A:
        if not torch.equal(A[n],B[n]): bad.append(("buf",n))
    return bad
if __name__=="__main__":
    for lora in (True,False):
        print(lora, run_ranks(go,2,lora)[0])

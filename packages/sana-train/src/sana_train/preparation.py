"""Make a model ready to train: recompute activations, compile, and shard over processes (FSDP2), block by block."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from sana_train.config import TrainConfig

SIZES = 128  # that a block may be compiled for: public checkpoints have 33 to 40; PyTorch gives up after 8


def prepare(model: nn.Module, config: TrainConfig) -> None:
    """Prepare `model` in place; where processes train together, its parameters become DTensors.

    The blocks are the members of the model's outermost `nn.ModuleList`s, such as `model.blocks`. Before sharding, the
    weights of the first process become everybody's.
    """
    blocks = list(dict.fromkeys(repeated_blocks(model)))  # a block that is used twice is there once
    if config.activation_checkpointing:
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if config.compile:
        torch._dynamo.config.recompile_limit = max(SIZES, torch._dynamo.config.recompile_limit)
        for block in blocks:
            block.compile(dynamic=False)  # one graph for all sizes of latents fails to compile on a CPU (PyTorch 2.13)
    if dist.is_initialized() and not isinstance(model, FSDPModule):
        _shard(model, blocks, torch.bfloat16 if config.precision == "bf16" else None)


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost ModuleLists of `module`, in order."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from repeated_blocks(child)


def _shard(model: nn.Module, blocks: list[nn.Module], gathered_as: torch.dtype | None) -> None:
    device = next(model.parameters()).device.type
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.data, src=0)
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    # Inputs are left alone: in bf16 the timestep 733 would become 732.
    policy = MixedPrecisionPolicy(param_dtype=gathered_as, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)

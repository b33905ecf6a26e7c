"""Make a model ready to train: recompute activations, compile, and shard over processes (FSDP2), block by block."""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from sana_train.config import TrainConfig
from sana_train.distributed import share_first, world_size

SIZES = 128  # that a block may be compiled for: public checkpoints have 33 to 40; PyTorch gives up after 8


def prepare(model: nn.Module, config: TrainConfig) -> None:
    """Prepare `model` in place; where processes train together, its parameters become DTensors.

    The blocks are the members of the model's outermost `nn.ModuleList`s, such as `model.blocks`. Before sharding, the
    weights of the first process become everybody's.
    """
    blocks = list(dict.fromkeys(repeated_blocks(model)))  # a block that is used twice is there once
    prepare_blocks(blocks, config)
    if dist.is_initialized():
        _shard(model, blocks, config)


def prepare_blocks(blocks: Iterable[nn.Module], config: TrainConfig) -> None:
    """Recompute the activations of blocks and compile them, as `config` says."""
    if config.compile:
        torch._dynamo.config.recompile_limit = max(SIZES, torch._dynamo.config.recompile_limit)
    for block in blocks:
        if config.activation_checkpointing and _keeps_activations(block):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if config.compile:
            block.compile(dynamic=False)  # one graph for all sizes of latents fails to compile on a CPU (PyTorch 2.13)


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost ModuleLists of `module`, in order."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from repeated_blocks(child)


def _keeps_activations(block: nn.Module) -> bool:
    """Whether an earlier preparation has not made it recompute them: twice would cost another forward pass."""
    return getattr(block.forward, "func", None) is not checkpoint


def _shard(model: nn.Module, blocks: list[nn.Module], config: TrainConfig) -> None:
    mesh = _mesh(next(model.parameters()).device.type, config.shard_over or world_size())
    gathered_as = torch.bfloat16 if config.precision == "bf16" else None
    share_first((*model.parameters(), *model.buffers()))
    # Inputs are left alone: in bf16 the timestep 733 would become 732.
    policy = MixedPrecisionPolicy(param_dtype=gathered_as, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def _mesh(device: str, shard_over: int) -> DeviceMesh:
    """All processes in a row, or copies of the weights by the processes that hold one between them."""
    copies, rest = divmod(world_size(), shard_over)
    if rest:
        raise ValueError(
            f"shard_over is {shard_over} and there are {world_size()} processes; it must divide their number, such as "
            "the processes of a node do"
        )
    if copies == 1:
        return init_device_mesh(device, (shard_over,))
    return init_device_mesh(device, (copies, shard_over), mesh_dim_names=("copies", "shards"))

"""How far growing changes what a model computes, in float32 and in bfloat16."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sana_train.growth.block_list import BlockList, config_field
from sana_train.validation import evaluating

Run = Callable[[nn.Module, torch.dtype], Tensor]  # the output on fixed inputs of a type, which the weights then have

DTYPES = (torch.float32, torch.bfloat16)
_SIZES = ("in_channels", "sample_size", "caption_channels")
_CELLS, _TOKENS = 8, 12


def outputs(held: BlockList, run: Run) -> dict[str, Tensor]:
    """What `run` returns of the model in eval mode, computed in each of `DTYPES`."""
    with torch.no_grad(), evaluating(held.model):
        return {_name(dtype): _output_in(dtype, held, run) for dtype in DTYPES}


def greatest_change(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, float]:
    """The greatest |difference| of an element, by type; NaN where an output has one."""
    return {name: float((after[name].double() - before[name].double()).abs().max()) for name in before}


def velocity_run(model: nn.Module) -> Run | None:
    """A call of a velocity model on fixed noise and captions, of the sizes that its configuration names.

    None where the configuration does not name `in_channels`, `sample_size` and `caption_channels`, or where the model
    has no weights to compute with.
    """
    sizes = [config_field(model, name) for name in _SIZES]
    weight = next(model.parameters(), None)
    if weight is None or weight.is_meta or not all(isinstance(size, int) for size in sizes):
        return None
    channels, cells, width = sizes
    patch = config_field(model, "patch_size") or 1
    side = max(patch, min(cells, _CELLS) // patch * patch)
    generator = torch.Generator("cpu").manual_seed(0)
    inputs = [
        torch.randn(2, channels, side, side, generator=generator),
        torch.tensor([300.0, 900.0]) * (0.001 if config_field(model, "guidance_embeds") else 1),
        torch.randn(2, _TOKENS, width, generator=generator),
        (torch.arange(_TOKENS) < torch.tensor([[_TOKENS], [_TOKENS // 2]])).float(),
    ]
    if config_field(model, "guidance_embeds"):
        inputs.append(torch.full((2,), 0.45))
    return partial(_call, inputs=[tensor.to(weight.device) for tensor in inputs])


def _call(model: nn.Module, dtype: torch.dtype, *, inputs: list[Tensor]) -> Tensor:
    latents, timestep, caption, *rest = inputs
    output: Tensor = model(latents.to(dtype), timestep, caption.to(dtype), *rest)  # bfloat16 does not have every time
    return output


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _output_in(dtype: torch.dtype, held: BlockList, run: Run) -> Tensor:
    with ExitStack() as stack:
        blocks = set(held.blocks.parameters()) | set(held.blocks.buffers())
        rest = [t for t in (*held.model.parameters(), *held.model.buffers()) if t not in blocks]
        stack.enter_context(_cast(rest, dtype))
        for block in held.blocks:
            stack.enter_context(_cast_while_running(block, dtype))
        return run(held.model, dtype)


@contextmanager
def _cast_while_running(block: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """A copy in another type of one block at a time: all at once might not fit."""
    lent = ExitStack()

    def before(module: nn.Module, args: Any) -> None:
        lent.enter_context(_cast([*module.parameters(), *module.buffers()], dtype))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        lent.close()

    with block.register_forward_pre_hook(before), block.register_forward_hook(after, always_call=True):
        yield


@contextmanager
def _cast(tensors: list[Tensor], dtype: torch.dtype) -> Iterator[None]:
    """Within this context floating-point tensors have another type; afterwards they are what they were, to the bit."""
    kept = [(tensor, tensor.data) for tensor in tensors if tensor.is_floating_point()]
    for tensor, data in kept:
        tensor.data = data.to(dtype)
    try:
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data

"""Bytes that optimizers keep of a model, counted from the shapes of its parameters."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

from sana_train.came.state import EightBit, Layout, state_tensors

Kind = Literal["came8bit", "came", "adamw", "adamw8bit-bitsandbytes", "adamw8bit-torchao", "came-pytorch"]

_BYTES = 4  # of a float32
_SMALL = 4096  # elements: smaller tensors stay in float32 in bitsandbytes and torchao
_BLOCK = 256  # values in a block of theirs
_MAP_BYTES = 2 * 256 * _BYTES  # torchao keeps two maps of 256 values with each tensor


def optimizer_state_bytes(
    shapes: Iterable[Sequence[int]],
    optimizer: Kind = "came8bit",
    *,
    layout: Layout = "row",
    block_size: int = 2048,
    min_8bit_size: int = 16384,
) -> int:
    """Bytes of state of parameters of these shapes, all shards together, without the step counts.

    Args:
        shapes: the parameters' shapes, such as `(p.shape for p in model.parameters())`; a model on "meta" will do.
        optimizer: ours, torch's AdamW, or one of bitsandbytes, torchao and came-pytorch, all for float32 gradients.
        layout: of CAME8bit.
        block_size: of CAME8bit.
        min_8bit_size: of CAME8bit.

    Raises:
        ValueError: the optimizer or an option is unknown.
    """
    if optimizer not in get_args(Kind):
        raise ValueError(f"optimizer is {optimizer!r}: it must be one of {', '.join(get_args(Kind))}")
    eight = EightBit(layout=layout, block_size=block_size, min_size=min_8bit_size)
    count: dict[Kind, Callable[[Sequence[int]], int]] = {
        "came8bit": lambda shape: _came(shape, eight),
        "came": lambda shape: _came(shape, None),
        "adamw": lambda shape: 2 * _BYTES * math.prod(shape),
        "adamw8bit-bitsandbytes": _bitsandbytes,
        "adamw8bit-torchao": _torchao,
        "came-pytorch": _came_pytorch,
    }
    return sum(map(count[optimizer], shapes))


def _came(shape: Sequence[int], eight: EightBit | None) -> int:
    return sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in state_tensors(shape, eight).values())


def _bitsandbytes(shape: Sequence[int]) -> int:
    count = math.prod(shape)
    return 2 * _BYTES * count if count < _SMALL else 2 * (count + _BYTES * math.ceil(count / _BLOCK))


def _torchao(shape: Sequence[int]) -> int:
    count = math.prod(shape)
    if count < _SMALL or count % _BLOCK:
        return 2 * _BYTES * count
    return 2 * (count + _BYTES * (count // _BLOCK)) + _MAP_BYTES


def _came_pytorch(shape: Sequence[int]) -> int:
    """It factors the last two dimensions, which are 1 x 1 in a 1x1 convolution."""
    count = math.prod(shape)
    if len(shape) < 2:
        return 2 * _BYTES * count
    return _BYTES * (count + 2 * (count // max(1, shape[-1]) + count // max(1, shape[-2])))

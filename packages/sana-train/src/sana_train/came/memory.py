"""Bytes that optimizers keep of a model, counted from the shapes of its parameters."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

from sana_train.came.state import EightBit, Layout, state_tensors

Kind = Literal["came8bit", "came", "adamw"]

_BYTES = 4  # of a float32


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
        optimizer: ours, or torch's AdamW with float32 parameters.
        layout: of CAME8bit.
        block_size: of CAME8bit.
        min_8bit_size: of CAME8bit.

    Raises:
        ValueError: the optimizer or an option is unknown.
    """
    if optimizer not in get_args(Kind):
        raise ValueError(f"optimizer is {optimizer!r}; it must be one of {', '.join(get_args(Kind))}")
    eight = EightBit(layout=layout, block_size=block_size, min_size=min_8bit_size)
    count: dict[Kind, Callable[[Sequence[int]], int]] = {
        "came8bit": lambda shape: _came(shape, eight),
        "came": lambda shape: _came(shape, None),
        "adamw": lambda shape: 2 * _BYTES * math.prod(shape),
    }
    return sum(map(count[optimizer], shapes))


def _came(shape: Sequence[int], eight: EightBit | None) -> int:
    return sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in state_tensors(shape, eight).values())

"""What CAME keeps of a parameter, from its shape alone: which tensors, of which shape and type."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch

from sana_train.came.blocks import row_blocks

Layout = Literal["row", "flat", "dynamic"]
_BNB_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True, kw_only=True, slots=True)
class EightBit:
    """How the momentum of a matrix of more than `min_size` elements is kept in 8 bits."""

    layout: Layout
    block_size: int
    min_size: int

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise ValueError(f"layout is {self.layout!r}; it must be one of {', '.join(get_args(Layout))}")
        if self.block_size < 1:
            raise ValueError(f"block_size is {self.block_size}; it must be at least 1")
        if self.layout == "dynamic" and self.block_size not in _BNB_SIZES:
            raise ValueError(f"block_size is {self.block_size}; bitsandbytes has {', '.join(map(str, _BNB_SIZES))}")
        if self.min_size < 0:
            raise ValueError(f"min_8bit_size is {self.min_size}; it must be at least 0")

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Self | None:
        """What a parameter group says; None where it keeps momentum in float32."""
        if group["layout"] is None:
            return None
        return cls(layout=group["layout"], block_size=group["block_size"], min_size=group["min_8bit_size"])


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One tensor of a parameter's state; `divided` says that its rows are sharded as the parameter's."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    divided: bool = True


def is_matrix(shape: Sequence[int]) -> bool:
    """Whether CAME factors a tensor of this shape: matrices, and 1x1 convolutions (O, I, 1, 1) as (O, I)."""
    return len(shape) == 2 or (len(shape) == 4 and tuple(shape[2:]) == (1, 1))


def state_tensors(
    shape: Sequence[int], eight: EightBit | None, *, stacked_rows: int | None = None
) -> dict[str, StateTensor]:
    """The state of a parameter of `shape` but for its step.

    A matrix has its momentum, in 8 bits if `eight` says so, and the means over rows and columns of the squared gradient
    and of the squared residual. Any other tensor has its momentum and its squares in full.

    Args:
        shape: the parameter's global shape.
        eight: how large matrices are kept in 8 bits; None keeps all in float32.
        stacked_rows: rows of the stack that the matrix is joined to, which then counts as one for `eight.min_size`.
    """
    if not is_matrix(shape):
        full = StateTensor(tuple(shape))
        return {"momentum": full, "square": full}
    rows, columns = shape[0], shape[1]
    means = {
        "square_rows": StateTensor((rows,)),
        "square_columns": StateTensor((columns,), divided=False),
        "residual_rows": StateTensor((rows,)),
        "residual_columns": StateTensor((columns,), divided=False),
    }
    if eight is None or (stacked_rows or rows) * columns <= eight.min_size:
        return {"momentum": StateTensor((rows, columns))} | means
    return _eight_bit(rows, columns, eight) | means


def _eight_bit(rows: int, columns: int, eight: EightBit) -> dict[str, StateTensor]:
    codes = StateTensor((rows, columns), torch.uint8)
    if eight.layout == "row":
        ranges = StateTensor((rows, row_blocks(columns, eight.block_size)[0]))
    else:
        ranges = StateTensor((math.ceil(rows * columns / eight.block_size),), divided=False)
    return {"codes": codes, "scale": ranges} | ({} if eight.layout == "dynamic" else {"low": ranges})

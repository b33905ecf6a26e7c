"""How the Triton kernels divide matrices among programs: sizes chosen by counting loads, bytes and registers."""

# mypy: disable-error-code="import-not-found, import-untyped"

from math import ceil
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from sana_train.came.backends import WIDEST_TRITON_BLOCK

LOAD_BYTES = 16  # the widest load of a thread, and the alignment that needs
APPLY_COLUMNS = 1024  # of a program of `apply` where the momentum has no blocks

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_WARP = 32  # threads
_TILE = 2048  # elements, 16 a thread: two to eight loads of 16 bytes under way, in at most 96 registers
_SCALAR_COLUMNS = 512  # of a tile whose elements are loaded one by one: few rows, since each costs registers
_SUM_ROWS = 128  # of a program that sums: it leaves one partial sum of a column for all of them
_APPLY_ROWS = 16  # of a program of `apply`: it reads the factors of its columns once for all of them
_PARTIALS = 4096  # that a program adds up at once


class Tiling(NamedTuple):
    """What a launch is told beside its operands."""

    grid: tuple[int, int, int]  # programs; the last axis counts the matrices
    constants: dict[str, Any]


def sum_tiling(grad: Tensor, momentum: Tensor | None = None, *, width: int, matrices: int) -> Tiling:
    """For passes 1 to 3: a warp reads 512 neighbouring bytes; no tile crosses a multiple of `width` columns."""
    operands = [grad] if momentum is None else [grad, momentum]
    vector = _vector(operands, width)
    columns = _WARP * vector if vector > 1 else _SCALAR_COLUMNS
    rows = _TILE // columns
    constants = {
        "GRAD_TYPE": _type(grad),
        "VECTOR": vector,
        "ROWS": rows,
        "COLUMNS": columns,
        "STEPS": ceil(min(_SUM_ROWS, grad.shape[0]) / rows),
    }
    across = ceil(grad.shape[1] / width) * ceil(width / columns)
    return Tiling((across, ceil(grad.shape[0] / _SUM_ROWS), matrices), constants)


def apply_tiling(weight: Tensor, grad: Tensor, momentum: Tensor, *, width: int, matrices: int) -> Tiling:
    """For pass 4: a program holds one block of a row at a time, 8 elements a thread."""
    assert width <= WIDEST_TRITON_BLOCK
    operands = [weight, grad, momentum]
    block = max(_WARP, 1 << (width - 1).bit_length())
    constants = {
        "GRAD_TYPE": _type(grad),
        "WEIGHT_TYPE": _type(weight),
        "VECTOR": _vector(operands, width),
        "BLOCK": block,
        "STEPS": min(_APPLY_ROWS, grad.shape[0]),
        "num_warps": min(max(1, block // (8 * _WARP)), 16),
    }
    return Tiling((ceil(grad.shape[1] / width), ceil(grad.shape[0] / _APPLY_ROWS), matrices), constants)


def partials_tiling(partials: Tensor) -> Tiling:
    """For the sums over the middle of `partials` (matrices, parts, length)."""
    matrices, parts, length = partials.shape
    together = min(128, 1 << max(0, length - 1).bit_length())
    constants = {
        "LENGTH": together,
        "PARTS": _PARTIALS // together,
        "STEPS": ceil(parts * together / _PARTIALS),
    }
    return Tiling((ceil(length / together), 1, matrices), constants)


def _type(tensor: Tensor) -> Any:
    if tensor.dtype not in _TYPES:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _TYPES)
        raise ValueError(f"backend='triton' takes {allowed}, got {tensor.dtype}: use backend='eager'")
    return _TYPES[tensor.dtype]


def _vector(operands: list[Tensor], width: int) -> int:
    """Elements a thread loads at once: equally many of each operand, so that what belongs together is in one thread."""
    if width % LOAD_BYTES or operands[0].shape[1] % LOAD_BYTES or any(x.data_ptr() % LOAD_BYTES for x in operands):
        return 1
    return LOAD_BYTES // max(operand.element_size() for operand in operands)

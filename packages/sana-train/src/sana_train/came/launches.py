"""Which matrices share a launch of a Triton kernel, and how it finds them."""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call"

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from triton import JITFunction

from sana_train.came.blocks import Quantized
from sana_train.came.tiles import LOAD_BYTES, Tiling

_LARGEST_LAUNCH = 2**30  # elements, whose partial sums take 64 MiB
_LARGEST_GRID = 65_535  # CUDA's bound on the third axis of a grid


def alike(*operands: Sequence[Any]) -> Iterator[tuple[list[int], list[list[Any]]]]:
    """Group matrices by shape, dtypes, blocks and alignment: a group's places in the lists, and its own lists.

    The first operand, tensors, sets how large a group may be: 2^30 elements.
    """
    groups = defaultdict(list)
    for place, members in enumerate(zip(*operands, strict=True)):
        groups[tuple(map(_kind, members))].append(place)
    for places in groups.values():
        size = min(max(1, _LARGEST_LAUNCH // max(1, operands[0][places[0]].numel())), _LARGEST_GRID)
        for start in range(0, len(places), size):
            group = places[start : start + size]
            yield group, [[operand[place] for place in group] for operand in operands]


def addresses(*operands: Sequence[Tensor | int]) -> Tensor:
    """The table (operand, matrix) of int64 in which a kernel finds its operands; a number stands for itself."""
    table = torch.tensor([[_address(member) for member in operand] for operand in operands])
    first = operands[0][0]
    assert isinstance(first, Tensor)
    # From pinned memory the copy does not wait for the device.
    return table.pin_memory().to(first.device, non_blocking=True) if first.is_cuda else table


def run(kernel: Any, tiling: Tiling, table: Tensor, *arguments: Any, **constants: Any) -> None:
    """Launch `kernel` on the device of its table of addresses.

    Raises:
        ValueError: that is not a GPU, and the kernel is compiled and not interpreted.
    """
    if isinstance(kernel, JITFunction) and not table.is_cuda:
        raise ValueError(
            f"backend='triton' needs tensors on a GPU, these are on the {table.device}: use backend='eager'"
        )
    with torch.cuda.device_of(table):
        kernel[tiling.grid](table, *arguments, **tiling.constants, **constants)


def _kind(operand: object) -> object:
    """What the operands of one launch have in common."""
    if isinstance(operand, Tensor):
        return operand.shape, operand.dtype, operand.device, operand.data_ptr() % LOAD_BYTES == 0
    if isinstance(operand, Quantized):
        return _kind(operand.codes), operand.scale.shape, operand.width
    return type(operand)


def _address(operand: Tensor | int) -> int:
    if isinstance(operand, int):
        return operand
    if not operand.is_contiguous():
        raise ValueError(
            f"backend='triton' needs contiguous tensors, got shape {tuple(operand.shape)} with strides "
            f"{operand.stride()}: use backend='eager'"
        )
    return operand.data_ptr()

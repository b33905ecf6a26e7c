"""Tile sizes of the Triton kernels per GPU architecture, chosen by counting bytes, registers and programs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

MAX_ROW = 8192  # elements of a token that a program holds in registers at once

# Products of matrices in float32. Tensor cores cut factors off after the 11 bits of TF32, which costs a quarter of what
# rounding the result to bfloat16 does; float16 has 11 bits itself: there the three products of tf32x3 make up for it.
_TENSOR_CORES = {torch.bfloat16: "tf32", torch.float16: "tf32x3", torch.float32: "ieee"}
_FLOAT32 = dict.fromkeys(_TENSOR_CORES, "ieee")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """What the kernels are told of an architecture."""

    lanes: int  # threads of a warp
    multiprocessors: int
    products: Mapping[torch.dtype, str]  # how operands of a dtype are multiplied
    row_share: int = 16  # elements of a token in the registers of a thread: two loads of 16 bytes in 16 bits
    rows: int = 4  # tokens a program norms: it loads shift and scale, or the weight, once for all of them

    def row_warps(self, block: int) -> int:
        """Warps of a program that holds `block` elements of a token."""
        return min(max(1, block // (self.row_share * self.lanes)), 1024 // self.lanes // 2)

    def reduced_rows(self, rows: int) -> int:
        """Rows, of `rows`, that one program sums up: enough to make its partial sums few, and programs many.

        Partial sums are written and read in float32: at 8 rows they cost half of what reading 16-bit rows costs, at
        64 rows a sixteenth.
        """
        share = rows // (4 * self.multiprocessors)
        return min(max(8, 1 << max(0, share.bit_length() - 1)), 64)


AMPERE = Tiles(lanes=32, multiprocessors=108, products=_TENSOR_CORES)
HOPPER = replace(AMPERE, multiprocessors=132)
CDNA3 = Tiles(lanes=64, multiprocessors=304, products=_FLOAT32)  # its matrix cores multiply float32

TILES = {"sm_80": AMPERE, "sm_90": HOPPER, "gfx942": CDNA3}


def tiles_of(device: torch.device) -> Tiles:
    """The entry of a device's architecture, or of the nearest."""
    if device.type != "cuda":
        return AMPERE
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return CDNA3
    return HOPPER if properties.major >= 9 else AMPERE


def row_block(width: int) -> int:
    """The power of two that holds a token of `width` elements."""
    assert 0 < width <= MAX_ROW
    return max(32, 1 << (width - 1).bit_length())

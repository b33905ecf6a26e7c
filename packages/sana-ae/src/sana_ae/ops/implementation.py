"""Which implementation of an operation runs: the one switch, and when a Triton kernel can."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from threading import Lock
from typing import Literal

import torch
from torch import Tensor

Implementation = Literal["fused", "reference"]

# The kernels agree with the references in Triton's interpreter and compile without spills, but have not run on a GPU
# yet: until they have, they are asked for by name.
_DEFAULT: Implementation = "reference"
_selected = _DEFAULT
# One for each block that is open, oldest first: blocks of several threads end in any order. A thread has none of its
# own, as autograd recomputes checkpointed blocks in another.
_asked: dict[object, Implementation] = {}
_lock = Lock()
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def _has_triton() -> bool:
    """Whether Triton 3.6 or newer is here, under its own name or that of ROCm's builds; it is not imported."""
    for name in ("triton", "triton-rocm", "pytorch-triton-rocm"):
        try:
            return tuple(map(int, version(name).split(".")[:2])) >= (3, 6)
        except PackageNotFoundError:
            continue
    return False


_HAS_TRITON = _has_triton()


@contextmanager
def use(implementation: Implementation) -> Iterator[None]:
    """Makes every operation inside the `with` block run as named.

    "reference" (the default) is plain PyTorch everywhere. "fused" is Triton wherever it can run, and elsewhere the same
    plain PyTorch. All threads share the switch: of blocks that are open at once, the last to open holds.

    Raises:
        ValueError: The name is neither "fused" nor "reference".
    """
    if implementation not in ("fused", "reference"):
        raise ValueError(f"implementation is {implementation!r}; it must be 'fused' or 'reference'")
    block = object()
    _set(block, implementation)
    try:
        yield
    finally:
        _set(block, None)


def _set(block: object, implementation: Implementation | None) -> None:
    global _selected
    with _lock:
        _asked.pop(block, None)
        if implementation is not None:
            _asked[block] = implementation
        _selected = next(reversed(_asked.values()), _DEFAULT)


def selected() -> Implementation:
    """Returns the implementation in force."""
    return _selected


def can_fuse(*operands: Tensor) -> bool:
    """Whether Triton kernels take these operands: on one GPU (CUDA 8.0 or newer, or ROCm), 16 or 32 bits, not empty."""
    return (
        _selected == "fused"
        and _HAS_TRITON
        and all(x.is_cuda and x.device == operands[0].device for x in operands)
        and all(x.dtype in _DTYPES and x.numel() > 0 for x in operands)
        and torch.cuda.is_available()
        and torch.cuda.get_device_properties(operands[0].device).major >= 8
    )

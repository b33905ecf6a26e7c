"""Plain PyTorch or Triton kernels: the switches of the libraries that have both, as one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import sana_ae.ops
import sana_dit.ops

Kernels = Literal["reference", "fused"]


def check_kernels(kernels: str) -> None:
    """Raise ValueError unless these are kernels."""
    if kernels not in get_args(Kernels):
        raise ValueError(f"kernels is {kernels!r}; it must be {' or '.join(map(repr, get_args(Kernels)))}")


@contextmanager
def use_kernels(kernels: Kernels) -> Iterator[None]:
    """Transformers and autoencoders run with these inside the block; see `sana_dit.ops.use`."""
    with sana_dit.ops.use(kernels), sana_ae.ops.use(kernels):
        yield

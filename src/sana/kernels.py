"""Plain PyTorch or Triton kernels: the switches of the libraries that have both, as one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import sana_ae.ops
import sana_dit.ops
from sana.choices import Kernels as Kernels


def check_kernels(kernels: str | None) -> None:
    """Raise ValueError unless these are kernels, or None."""
    if kernels not in (None, *get_args(Kernels)):
        raise ValueError(f"kernels is {kernels!r}; it must be {' or '.join(map(repr, get_args(Kernels)))}")


@contextmanager
def use_kernels(kernels: Kernels | None) -> Iterator[None]:
    """Transformers and autoencoders run with these inside the block, for None as around it; see `sana_dit.ops.use`."""
    if kernels is None:
        yield
    else:
        with sana_dit.ops.use(kernels), sana_ae.ops.use(kernels):
            yield


def kernels_in_force(kernels: Kernels | None) -> Kernels:
    """These, or for None those that transformers run with now."""
    return kernels or sana_dit.ops.implementation.selected()

"""What runs the four passes: eager PyTorch, torch.compile, or Triton."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, get_args

from sana_train.came.chunked import ChunkedPasses
from sana_train.came.factored import Passes

Backend = Literal["eager", "compile", "triton"]

WIDEST_TRITON_BLOCK = 8192


def check_backend(group: Mapping[str, Any]) -> None:
    """Raise ValueError or ImportError where the backend of a parameter group cannot run it."""
    backend, layout = group["backend"], group["layout"]
    if backend not in get_args(Backend):
        raise ValueError(f"backend is {backend!r}; it must be one of {', '.join(get_args(Backend))}")
    fitting = {"flat": ("eager", "compile"), "dynamic": ("eager",)}.get(layout, get_args(Backend))
    if backend not in fitting:
        raise ValueError(f"backend={backend!r} does not know layout={layout!r}: use {' or '.join(fitting)}")
    if backend == "triton" and layout is not None and group["block_size"] > WIDEST_TRITON_BLOCK:
        raise ValueError(
            f"backend='triton' with block_size={group['block_size']}: a block must fit in the registers of a program: "
            f"use at most {WIDEST_TRITON_BLOCK} values, or backend='eager'"
        )
    passes_of(backend)


@cache
def passes_of(backend: Backend) -> Passes:
    """The four passes of a backend."""
    if backend == "triton":
        from sana_train.came import passes_triton

        return passes_triton
    return ChunkedPasses(compiled=backend == "compile")

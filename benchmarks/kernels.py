"""Which kernels a measurement is of: the switch of both libraries, and proof that the kernels ran."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sana_ae.ops
import sana_dit.ops

TRANSFORMER_KERNELS = frozenset(
    f"sana_dit::{name}" for name in ("gated_depthwise", "gated_residual", "linear_attention", "modulated_norm")
)
AUTOENCODER_KERNELS = frozenset({"sana_ae::rms_norm"})


@contextmanager
def fastest(device: torch.device) -> Iterator[None]:
    """Makes both libraries run their kernels on a GPU, and plain PyTorch elsewhere."""
    if device.type == "cuda":
        with sana_dit.ops.use("fused"), sana_ae.ops.use("fused"):
            yield
    else:
        yield


def check_kernels(run: Callable[[], object], expected: frozenset[str], device: torch.device) -> None:
    """Stops the benchmark where a run on a GPU did not call these operators: "fused" falls back without a word."""
    if device.type != "cuda":
        return
    with _Calls() as calls:
        run()
    if missing := sorted(expected - calls.names):
        raise SystemExit(f"plain PyTorch ran in place of {', '.join(missing)}; nothing was timed")


class _Calls(TorchDispatchMode):
    """Notes the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))

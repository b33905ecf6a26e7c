"""Where fused operations run, and how exact they must be."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import zip_longest
from typing import Any

import pytest
import torch
from torch import Tensor

collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FEW = 1000
# How often plain PyTorch's error is allowed. The largest, a matter of luck, is there for what a mean would hide.
NORMS = {"mean square": (lambda x: x.square().mean().sqrt(), 2), "largest": (lambda x: x.abs().max(), 4)}


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """The CPU where kernels are interpreted, else a GPU; tests of real sizes want the GPU."""
    if INTERPRETED and request.node.get_closest_marker("gpu") is None:
        return "cpu"
    if INTERPRETED or not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1 for the small sizes")
    return "cuda"


# The interpreter's arithmetic in bfloat16 is not that of a GPU.
DTYPES = [torch.float32, torch.float16, *([] if INTERPRETED else [torch.bfloat16])]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """What small sizes are tested in."""
    return request.param


@pytest.fixture
def draw(device: str) -> Callable[..., Tensor]:
    """Draws normal numbers, the same ones whatever the dtype and device."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    return normal


@pytest.fixture
def assert_exact(poisoned_empty: None) -> Callable[..., None]:
    """Compares a fused operation's output and gradients with plain PyTorch in float64.

    The error may be twice that of plain PyTorch in the dtype of the operands, or what rounding the exact result
    costs where that is more: plain PyTorch is sometimes exact by luck. Of few numbers its error is a matter of luck
    altogether, and the interpreter has no fused multiply-add: there, twice the cost of a rounding.
    """

    def check(fused: Callable[..., Tensor], plain: Callable[..., Tensor], *operands: Tensor | None) -> None:
        exact = _output_and_gradients(plain, [x if x is None else x.double() for x in operands])
        eager = _output_and_gradients(plain, operands)
        ours = _output_and_gradients(fused, operands)
        for place, (a, b, c) in enumerate(zip_longest(ours, eager, exact)):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            for name, (norm, times) in NORMS.items():
                error, allowed = (norm(x.double() - c) for x in (a, b))
                rounding = torch.finfo(a.dtype).eps / (1 if a.numel() < FEW else 2)
                allowed = torch.maximum(times * allowed, rounding * norm(c))
                assert error <= allowed, f"result {place}: {name} error {error:.3g} exceeds {allowed:.3g}"

    return check


def _output_and_gradients(function: Callable[..., Tensor], operands: Sequence[Any]) -> list[Tensor]:
    leaves = [x if x is None else x.detach().clone().requires_grad_() for x in operands]
    out = function(*leaves)
    # What every dtype under test can hold, so that it is the same upstream gradient in all of them.
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).half().bfloat16().to(out)
    out.backward(upstream)
    return [out.detach(), *(x.grad for x in leaves if x is not None)]

"""Nothing is timed before it is right: the tests and comparisons that come before a measurement."""

import subprocess
import sys

import torch
from torch import Tensor

OPERATION_TESTS = ("packages/sana-dit/tests/ops",)


def pass_tests(paths: tuple[str, ...], device: torch.device) -> None:
    """Runs the tests of these paths, on a GPU those that need one; stops the benchmark if one fails."""
    marker = "gpu" if device.type == "cuda" else "not gpu"
    command = [sys.executable, "-m", "pytest", *paths, "-m", marker, "-q", "-p", "no:cacheprovider"]
    if subprocess.run(command).returncode:
        raise SystemExit(f"{' '.join(command)} failed: nothing was timed")


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Returns ||actual - exact|| / ||exact||."""
    return float((actual.double() - exact.double()).norm() / exact.double().norm())


def check_errors(ours: float, theirs: float, dtype: torch.dtype) -> None:
    """Stops the benchmark unless ours is within 1e-5 of the exact output in float32, and else no worse than theirs.

    Which of two equally exact outputs comes out a little nearer is a matter of luck: a tenth is granted.
    """
    allowed = 1e-5 if dtype == torch.float32 else 1.1 * theirs
    if not ours <= allowed:
        raise SystemExit(f"{dtype}: the output is off by {ours:.2e}, allowed is {allowed:.2e}; nothing was timed")

"""Nothing is timed before it is right: the tests and comparisons that come before a measurement.

`python -m benchmarks.gate --device cuda` runs the tests alone.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import sana_ae.ops
import sana_dit.ops
from benchmarks.kernels import check_kernels, fastest

ROOT = Path(__file__).parents[1]
CPU_TESTS = ("packages/sana-dit/tests/ops", "packages/sana-ae/tests/ops")
# What a GPU runs is all of them, odd and tiny sizes included. The compiler's own tests need none.
GPU_TESTS = (
    "packages/sana-dit/tests/ops/fused",
    "packages/sana-dit/tests/ops/test_implementation.py",
    "packages/sana-dit/tests/test_step_graphs.py",
    "packages/sana-ae/tests/ops/fused",
    "packages/sana-ae/tests/ops/test_implementation.py",
    "packages/sana-ae/tests/test_norm.py",
    "packages/sana-train/tests/test_came_kernels.py",
)
# Two hundred kernels are compiled for these tests: minutes in one process.
DIVIDED = {
    "test_linear_attention.py": ("float32", "bfloat16", "float16 and not bfloat16", "not (float32 or float16)"),
}


def main() -> None:
    """Runs the tests of all kernels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    pass_tests(torch.device(parser.parse_args().device))


def pass_tests(device: torch.device) -> None:
    """Runs the tests of all kernels, on a GPU in a process for each file or part; stops the benchmark if one fails."""
    check_kernels(lambda: _norms(device), frozenset({"sana_dit::rms_norm", "sana_ae::rms_norm"}), device)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = partial(
        subprocess.run, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    failed = []
    with ThreadPoolExecutor() as pool:
        for done in pool.map(run, commands(device)):
            print(done.stdout, flush=True)
            failed += [" ".join(done.args)] if done.returncode else []
    if failed:
        raise SystemExit("\n".join([*(f"failed: {command}" for command in failed), "nothing was timed"]))


def commands(device: torch.device) -> list[list[str]]:
    """Returns the calls of pytest: on a GPU every test of the kernels, whatever its marks."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if device.type != "cuda":
        return [[*pytest, "-m", "not gpu", *CPU_TESTS]]
    found = (sorted(path.glob("test_*.py")) or [path] for path in (ROOT / name for name in GPU_TESTS))
    pytest += ["-W", "default"]  # a warning of what happens to be installed beside torch says nothing about a kernel
    return [
        [*pytest, *(("-k", part) if part else ()), str(path.relative_to(ROOT))]
        for paths in found
        for path in paths
        for part in DIVIDED.get(path.name, ("",))
    ]


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


def _norms(device: torch.device) -> None:
    x = torch.ones(2, 16, device=device)
    with fastest(device):
        sana_dit.ops.rms_norm(x, x[0], eps=1e-5)
        sana_ae.ops.rms_norm(x, x[0], x[0], eps=1e-5)


if __name__ == "__main__":
    main()

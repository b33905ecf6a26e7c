"""Everything a GPU is needed for, in one command under nine minutes: `python benchmarks/gpu_suite.py --out DIR`.

First the tests of all kernels in bf16, fp16 and fp32, with gradients and odd sizes; then the benchmarks, which are
left out if a test fails. It needs neither nox nor a network: torch 2.11, triton 3.6, transformers, diffusers, pytest,
and the packages of this tree installed (`pip install --no-deps --no-build-isolation -e .`, and so for each package).
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

TESTS = ("packages/sana-dit/tests", "packages/sana-ae/tests", "packages/sana-train/tests", "tests")
TEST_SECONDS = 150
# The first ones matter most: what does not fit into the minutes is left out and named.
BENCHMARKS = (
    ("operations", ("benchmarks.operations", "--no-tests"), 80),
    ("dit", ("benchmarks.denoiser", "--no-tests", "--compiled", "--block-sides", "16", "32", "64", "128"), 110),
    ("image-1024", ("benchmarks.image", "--no-tests", "--model", "1.5-1.6b", "--pixels", "1024", "512"), 90),
    ("train", ("benchmarks.training_step", "--no-tests"), 60),
    ("ae", ("benchmarks.autoencoder", "--compiled"), 80),
    ("optimizer-step", ("benchmarks.optimizer_step", "--blocks", "5", "--dtype", "bfloat16"), 40),
    (
        "image-batch-8",
        ("benchmarks.image", "--no-tests", "--model", "1.5-1.6b", "--pixels", "1024", "--batch", "8"),
        60,
    ),
    ("image-4.8b", ("benchmarks.image", "--no-tests", "--model", "1.5-4.8b", "--pixels", "1024"), 70),
)
BFLOAT16 = ("image-1024", "image-batch-8", "image-4.8b")


def main() -> None:
    """Runs the tests, then each benchmark that fits into the time left, and prints what happened to each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results and logs")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * args.minutes
    marker = "gpu" if args.device == "cuda" else "not gpu"
    tests = ("pytest", *TESTS, "-m", marker, "-q", "-p", "no:cacheprovider")
    outcomes = {"tests": run("tests", tests, args.out, seconds=TEST_SECONDS)}
    for name, arguments, seconds in BENCHMARKS:
        left = deadline - time.monotonic()
        if outcomes["tests"] != "passed":
            outcomes[name] = "left out: the tests did not pass"
        elif left < seconds:
            outcomes[name] = f"left out: {left:.0f} s were left, it takes up to {seconds}"
        else:
            dtype = ("--dtype", "bfloat16") if name in BFLOAT16 else ()
            whole = (*arguments, *dtype, "--device", args.device, "--out", str(args.out / f"{name}.json"))
            outcomes[name] = run(name, whole, args.out, seconds=seconds)
    print(*(f"{name:16} {outcome}" for name, outcome in outcomes.items()), sep="\n")
    sys.exit(any(outcome != "passed" for outcome in outcomes.values()))


def run(name: str, arguments: tuple[str, ...], out: Path, *, seconds: float) -> str:
    """Runs a module, keeps what it printed in `out`, shows the end of it, and returns how it ended."""
    start, log = time.monotonic(), out / f"{name}.log"
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", *arguments]
        try:
            status = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=seconds)
            outcome = "passed" if status.returncode == 0 else f"failed with status {status.returncode}: see {log}"
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {seconds} s: see {log}"
    print(f"{name}: {outcome}, {time.monotonic() - start:.0f} s", flush=True)
    print(*log.read_text(encoding="utf-8", errors="replace").splitlines()[-6:], sep="\n", flush=True)
    return outcome


if __name__ == "__main__":
    main()

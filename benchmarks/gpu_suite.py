"""Everything a GPU is needed for, in one command under nine minutes: `python benchmarks/gpu_suite.py --out DIR`.

First the tests of all kernels in bf16, fp16 and fp32, with gradients and odd sizes; then the benchmarks, which are
left out if a test fails. It needs neither nox nor a network, and nothing installed but torch 2.11, triton 3.6,
transformers, Pillow, tqdm and pytest: this tree is run where it lies. Without diffusers our times have no reference; it
and whatever else is missing can be carried as wheels in a folder, `--wheels DIR`.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECTS = (ROOT, *sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml")))
SECONDS = 525  # what is left of nine minutes is for stopping a benchmark and for the summary
LEAST_SECONDS = 20  # that a benchmark is started with
# What each may take, the sizes of the goals first; what one leaves over, those after it may have.
TESTS = ("tests", ("benchmarks.gate",), 130)
IMAGE = ("benchmarks.image", "--no-tests", "--dtype", "bfloat16", "--model")
BENCHMARKS = (
    ("image-1024", (*IMAGE, "1.5-1.6b", "--pixels", "1024", "512", "--compiled", "1024"), 115),
    ("train", ("benchmarks.training_step", "--no-tests"), 50),
    ("ae", ("benchmarks.autoencoder", "--no-tests"), 30),
    ("dit", ("benchmarks.denoiser", "--no-tests", "--block-sides", "16", "32", "64", "128"), 55),
    ("optimizer-step", ("benchmarks.optimizer_step", "--blocks", "5", "--dtype", "bfloat16"), 30),
    ("image-batch-8", (*IMAGE, "1.5-1.6b", "--pixels", "1024", "--batch", "8", "--repeats", "3"), 45),
    ("image-4.8b", (*IMAGE, "1.5-4.8b", "--pixels", "1024", "--repeats", "3"), 50),
    ("operations", ("benchmarks.operations", "--no-tests"), 20),
)
WHERE_THERE_IS_TIME = (
    ("ae-compiled", ("benchmarks.autoencoder", "--no-tests", "--compiled"), 0),
    ("train-compiled", ("benchmarks.training_step", "--no-tests", "--compiled"), 0),
)


def main() -> None:
    """Runs the tests, then each benchmark for which time is left, and prints what happened to each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results and logs")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to run with, beside what is installed")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    deadline = time.monotonic() + SECONDS
    args.out.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": search_path(Path(folder), args.wheels)}
        for place, (name, arguments, _) in enumerate((TESTS, *BENCHMARKS, *WHERE_THERE_IS_TIME)):
            limit = deadline - time.monotonic() - sum(seconds for *_, seconds in BENCHMARKS[place:])
            if outcomes.get("tests", "passed") != "passed":
                outcomes[name] = "left out: the tests did not pass"
            elif limit < LEAST_SECONDS:
                outcomes[name] = "left out: no time was left"
            else:
                out = () if name == "tests" else ("--out", str(args.out / f"{name}.json"))
                command = [sys.executable, "-m", *arguments, "--device", args.device, *out]
                outcomes[name] = run(name, command, args.out / f"{name}.log", limit=limit, environment=environment)
    print(*(f"{name:16} {outcome}" for name, outcome in outcomes.items()), sep="\n")
    sys.exit(has_failed(outcomes))


def has_failed(outcomes: dict[str, str]) -> bool:
    """Whether something did not pass that had time of its own."""
    return any(outcomes[name] != "passed" for name, *_ in (TESTS, *BENCHMARKS))


def search_path(folder: Path, wheels: Path | None) -> str:
    """Returns a PYTHONPATH with the sources of every package, their names and versions, and the wheels unpacked."""
    for project in PROJECTS:
        facts = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        described = folder / f"{facts['name'].replace('-', '_')}-{facts['version']}.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {facts['name']}\nVersion: {facts['version']}\n", encoding="utf-8"
        )
    if wheels is not None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--target", folder / "wheels", *sorted(wheels.glob("*.whl"))], check=True)
    before = os.environ.get("PYTHONPATH")
    paths = (folder, folder / "wheels", *(project / "src" for project in PROJECTS), *([before] if before else []))
    return os.pathsep.join(map(str, paths))


def run(name: str, command: list[str], log: Path, *, limit: float, environment: dict[str, str]) -> str:
    """Runs a command, keeps what it printed, shows the end of it, and returns how it ended."""
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            status = process.wait(limit)
            outcome = "passed" if status == 0 else f"failed with status {status}: see {log}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes it started
            process.wait()
            outcome = f"stopped after {limit:.0f} s, with the rows until then: see {log}"
    print(f"{name}: {outcome}, {time.monotonic() - start:.0f} s", flush=True)
    print(*log.read_text(encoding="utf-8", errors="replace").splitlines()[-6:], sep="\n", flush=True)
    return outcome


if __name__ == "__main__":
    main()

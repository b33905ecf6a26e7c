"""What a measurement depends on: device, versions, the rates the device reaches; and the file it is written to."""

import datetime
import json
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Contender, clock, interleaved
from sana.cpu_precision import cpu_name
from sana_dit.cpu_linear import linear

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("sana-ae", "sana-dit", "sana-train", "sana-scale", "sana-judge", "sana-suite")
REFERENCES = ("torch", "triton", "transformers", "diffusers")


def describe(device: torch.device) -> dict[str, Any]:
    """Returns device, clock and versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "clock": clock(device),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in (*PACKAGES, *REFERENCES)},
    }


def device_name(device: torch.device) -> str:
    """Returns the name of the GPU, or of the processor as the kernel reports it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()


def ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Measures FLOP/s of a large product of matrices and bytes/s of a large copy, read and written bytes counted.

    The product is that of PyTorch or that of our linear layers, which on a CPU may be another library's: the faster.
    """
    side, size = (8192, 2**30) if device.type == "cuda" else (1536, 2**27)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source, target = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    contenders: dict[str, Contender] = {
        "product": lambda: a @ b,
        "linear": lambda: linear(a, b, None),
        "copy": lambda: target.copy_(source),
    }
    with torch.inference_mode():
        seconds = {name: time.median for name, time in interleaved(contenders, repeats=9, device=device).items()}
    return {"flops": 2 * side**3 / min(seconds["product"], seconds["linear"]), "bytes": 2 * size / seconds["copy"]}


def floor_seconds(flops: float, moved: float, rates: Mapping[str, float]) -> float:
    """Returns the least time for so many operations and bytes of memory traffic, at the measured rates."""
    return max(flops / rates["flops"], moved / rates["bytes"])


def add_row(result: dict[str, Any], row: Mapping[str, Any], benchmark: str, out: Path | None) -> None:
    """Adds a row to a result, prints it, and writes the result: a run that is cut short loses the row it was at."""
    result.setdefault("results", []).append(row)
    print(*(f"{name} {_short(value)}" for name, value in row.items()), sep="  ")
    print(write_result(result, benchmark, out), flush=True)


def write_result(result: Mapping[str, Any], benchmark: str, out: Path | None) -> Path:
    """Writes a result whole or not at all: to `out`, else to results/<date>-<device>-<benchmark>.json.

    So the benchmark's name has to say with which settings it was run: those of another run would be replaced.
    """
    device = re.sub(r"[^a-z0-9]+", "-", result["device"].lower()).strip("-")
    path = out or RESULTS / f"{result['date']}-{device}-{benchmark}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".new", delete=False, encoding="utf-8") as file:
        file.write(json.dumps(result, indent=2) + "\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
    return path


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""Whether bf16 is a gain on this CPU: measured once in a fraction of a second, then remembered."""

import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sana_scale.files import write_json

_GAIN = 1.25  # bf16 must be faster by as much: below, rounding is not worth it
_REPEATS = 7


@functools.cache
def fastest_dtype() -> torch.dtype:
    """bfloat16 where this CPU multiplies and convolves faster in it (AMX, AVX-512), else float32.

    Remembered for this processor, PyTorch and number of threads in `sana` in the user's cache folder; deleting the
    file there measures anew.
    """
    path, key = _cache_file(), f"{cpu_name()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    known = _read(path)
    if not isinstance(known.get(key), int | float):
        known[key] = round(bfloat16_gain(), 2)
        _write(path, known)
    return torch.bfloat16 if known[key] >= _GAIN else torch.float32


@torch.inference_mode()
def bfloat16_gain() -> float:
    """How many times faster than in float32 a matrix product and a convolution of usual sizes are in bfloat16."""
    calls = [_work(torch.float32), _work(torch.bfloat16)]
    for call in calls:
        call()  # the first sets kernels up
    ratios = []
    for _ in range(_REPEATS):
        wide, narrow = (_seconds(call) for call in calls)
        ratios.append(wide / narrow)
    return statistics.median(ratios)


def cpu_name() -> str:
    """The processor's name as the kernel reports it, else as Python does."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _work(dtype: torch.dtype) -> Callable[[], Tensor]:
    tokens, weight = torch.ones(256, 1152, dtype=dtype), torch.ones(1152, 1152, dtype=dtype)  # Sana 0.6B's at 512 px
    image = torch.ones(1, 64, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.ones(64, 64, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    return lambda: F.linear(tokens, weight)[0, 0] + F.conv2d(image, kernel, padding=1)[0, 0, 0, 0]


def _seconds(call: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sana" / "bfloat16-gain.json"


def _read(path: Path) -> dict[str, float]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(path: Path, known: dict[str, float]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    except OSError:  # a home that cannot be written to costs a measurement per process
        pass

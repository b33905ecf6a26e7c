"""The passes of CAME compiled for sm_80, sm_90 and gfx942: nothing spills, and what they take is as noted.

`QUICK` names the part of the table beside this file that is compiled every time.
"""

from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch

from sana_train.came import kernels
from sana_train.came.blocks import row_blocks
from sana_train.came.tiles import apply_tiling, partials_tiling, sum_tiling

ARCHITECTURES = ("sm_80", "sm_90", "gfx942")
REGISTERS = 65_536  # of a multiprocessor of sm_80 and sm_90
# Threads that must fit on a multiprocessor: with two loads of 16 bytes each, they ask for the 16 KB that an H100 has
# under way at full bandwidth, 3.35 TB/s * 600 ns / 132.
BUSY = 512
MATRICES = 3


class Launch(NamedTuple):
    kernel: Any
    arguments: dict[str, Any]
    constants: dict[str, Any]


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def launches(
    *,
    grad: torch.dtype = torch.float32,
    weight: torch.dtype = torch.float32,
    momentum: torch.dtype = torch.uint8,
    shape: tuple[int, int] = (2240, 2240),
    block_size: int = 2048,
    stochastic: bool = False,
) -> dict[str, Launch]:
    """What a step over three matrices of this kind launches."""
    blocks, width = row_blocks(shape[1], block_size)
    g, w, m = (meta(*shape, dtype=dtype) for dtype in (grad, weight, momentum))
    whole = {"addresses": meta(10, MATRICES, dtype=torch.int64), "rows": shape[0], "columns": shape[1]}
    divided = whole | {"blocks": blocks, "width": width}
    summed = {name: meta(1) for name in ("row_partials", "column_partials")}
    steps = dict.fromkeys(("share", "lr", "decay"), 0.5)
    quantized = {"QUANTIZED": momentum == torch.uint8}
    plain = sum_tiling(g, width=shape[1], matrices=MATRICES)
    blocked = sum_tiling(g, m, width=width, matrices=MATRICES).constants | quantized
    moved = apply_tiling(w, g, m, width=width, matrices=MATRICES).constants | quantized | {"STOCHASTIC": stochastic}
    partials = meta(MATRICES, plain.grid[1], shape[1])
    added = {"partials": partials, "sums": meta(1), "parts": partials.shape[1], "length": partials.shape[2]}
    return {
        "square_sums": Launch(kernels.square_sums, whole | summed, plain.constants),
        "update_norm": Launch(kernels.update_norm, whole | {"partials": meta(1)}, plain.constants),
        "residual_sums": Launch(kernels.residual_sums, divided | summed | {"beta1": 0.9}, blocked),
        "apply": Launch(kernels.apply, divided | steps, moved),
        "sum_partials": Launch(kernels.sum_partials, added, partials_tiling(partials).constants),
    }


CASES = {
    "float32": launches,
    "bfloat16": partial(launches, grad=torch.bfloat16, weight=torch.bfloat16, stochastic=True),
    "float16": partial(launches, grad=torch.float16, weight=torch.float16),
    "bfloat16 gradient": partial(launches, grad=torch.bfloat16),
    "float32 momentum": partial(launches, momentum=torch.float32, shape=(112, 144)),
    "one row": partial(launches, shape=(1, 2240)),
    "uneven width": partial(launches, shape=(31, 2241)),
    "uneven blocks": partial(launches, shape=(2240, 5600)),
    "Mix-FFN": partial(launches, grad=torch.bfloat16, shape=(11200, 2240)),
    "0.6B": partial(launches, grad=torch.bfloat16, shape=(1152, 1152)),
    "widest blocks": partial(launches, grad=torch.bfloat16, weight=torch.bfloat16, shape=(2240, 8192), block_size=8192),
}
CONFIGURATIONS = [f"{case}, {architecture}" for case, architecture in product(CASES, ARCHITECTURES)]
QUICK = [f"{case}, {architecture}" for case in ("float32", "bfloat16") for architecture in ("sm_80", "sm_90")]
QUICK += ["uneven blocks, sm_90", "widest blocks, sm_90"]


def test_kernels_leave_room_for_enough_threads_and_do_not_spill(configuration, assert_as_noted):
    case, architecture = configuration.split(", ")
    needed = CASES[case]()
    for name, binary in assert_as_noted(configuration, needed, architecture).items():
        threads = 32 * needed[name].constants.get("num_warps", 4)
        enough = REGISTERS // (binary.registers * threads) * threads >= BUSY
        assert enough or architecture == "gfx942", name


def test_the_table_has_every_configuration(noted_names):
    assert noted_names == CONFIGURATIONS


@pytest.mark.parametrize("case", ["float32", "bfloat16", "bfloat16 gradient"])
def test_a_thread_moves_sixteen_bytes_at_once(case, compiled):
    for name in ("square_sums", "update_norm", "residual_sums", "apply"):
        binary = compiled(CASES[case]()[name], "sm_90")
        assert binary.load == 16
        assert "st.global.v4.b32" in binary.text or name != "apply"


def test_a_spill_would_be_seen(compiled, complaints):
    binary = compiled(launches()["apply"], "sm_90", maxnreg=32)
    assert complaints(binary, "sm_90") == [f"spills {binary.stack} bytes a thread"]

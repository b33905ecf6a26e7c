"""The Triton kernels compile for GPUs that need not be there: triton's wheel brings the assembler and cuobjdump."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs triton: pip install 'sana-train[triton]'")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled: unset TRITON_INTERPRET", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from sana_train.came import kernels  # noqa: E402
from sana_train.came.blocks import row_blocks  # noqa: E402
from sana_train.came.tiles import apply_tiling, partials_tiling, sum_tiling  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
if not all((TOOLS / name).exists() for name in ("ptxas", "cuobjdump")):
    pytest.skip(f"this triton has no ptxas and cuobjdump in {TOOLS}", allow_module_level=True)

ARGUMENTS = {
    "addresses": "*i64",
    **dict.fromkeys(("partials", "row_partials", "column_partials", "sums"), "*fp32"),
    **dict.fromkeys(("rows", "columns", "blocks", "width", "parts", "length"), "i32"),
    **dict.fromkeys(("beta1", "share", "lr", "decay"), "fp32"),
}
REGISTERS = 65_536  # of a multiprocessor of either architecture
# Threads that must fit on a multiprocessor: with two loads of 16 bytes each, they ask for the 16 KB that an H100 has
# under way at full bandwidth, 3.35 TB/s * 600 ns / 132.
BUSY = 512


class Launch(NamedTuple):
    kernel: Any
    sizes: dict[str, int]
    constants: dict[str, Any]


class Binary(NamedTuple):
    ptx: str
    registers: int  # of a thread
    stack: int  # bytes of a thread, where registers spill to
    threads: int  # of a program


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
    g, w, m = (torch.empty(shape, dtype=dtype, device="meta") for dtype in (grad, weight, momentum))
    whole = {"rows": shape[0], "columns": shape[1]}
    divided = whole | {"blocks": blocks, "width": width}
    quantized = {"QUANTIZED": momentum == torch.uint8}
    plain = sum_tiling(g, width=shape[1], matrices=3)
    partials = torch.empty(3, plain.grid[1], shape[1], device="meta")
    return {
        "square_sums": Launch(kernels.square_sums, whole, plain.constants),
        "update_norm": Launch(kernels.update_norm, whole, plain.constants),
        "residual_sums": Launch(
            kernels.residual_sums, divided, sum_tiling(g, m, width=width, matrices=3).constants | quantized
        ),
        "apply": Launch(
            kernels.apply,
            divided,
            apply_tiling(w, g, m, width=width, matrices=3).constants | quantized | {"STOCHASTIC": stochastic},
        ),
        "sum_partials": Launch(
            kernels.sum_partials,
            {"parts": partials.shape[1], "length": partials.shape[2]},
            partials_tiling(partials).constants,
        ),
    }


CASES = {
    "float32": launches(),
    "bfloat16": launches(grad=torch.bfloat16, weight=torch.bfloat16, stochastic=True),
    "bfloat16-gradient": launches(grad=torch.bfloat16),
    "float32-momentum": launches(momentum=torch.float32, shape=(112, 144)),
    "uneven-blocks": launches(shape=(2240, 5600)),
    "widest-blocks": launches(grad=torch.bfloat16, weight=torch.bfloat16, shape=(2240, 8192), block_size=8192),
}


def compiled(launch: Launch, architecture: int, folder: Path, **options: int) -> Binary:
    """The binary a launch would use: it knows of the pointers, and of sizes it may, that they are multiples of 16."""
    kernel, sizes, constants = launch
    options = {"num_warps": constants.get("num_warps", 4), **options}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {name: "constexpr" if name in constants else ARGUMENTS[name] for name in kernel.arg_names}
    sixteens = [name for name, kind in signature.items() if kind[0] == "*" or (name in sizes and sizes[name] % 16 == 0)]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in sixteens}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    binary = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    report = subprocess.run(
        [TOOLS / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", report).groups())
    return Binary(binary.asm["ptx"], registers, stack, 32 * options["num_warps"])


@pytest.fixture(autouse=True)
def _fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("architecture", [80, 90], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("name", CASES["float32"])
@pytest.mark.parametrize("case", CASES)
def test_a_kernel_compiles_without_spills_and_leaves_room_for_enough_threads(case, name, architecture, tmp_path):
    binary = compiled(CASES[case][name], architecture, tmp_path)
    print(f"sm_{architecture} {name} {case}: {binary.registers} registers * {binary.threads} threads")
    assert binary.stack == 0
    assert REGISTERS // (binary.registers * binary.threads) * binary.threads >= BUSY


@pytest.mark.parametrize("name", ["square_sums", "update_norm", "residual_sums", "apply"])
@pytest.mark.parametrize("case", ["float32", "bfloat16", "bfloat16-gradient"])
def test_a_thread_moves_sixteen_bytes_at_once(case, name, tmp_path):
    ptx = compiled(CASES[case][name], 90, tmp_path).ptx
    assert "ld.global.v4.b32" in ptx
    assert "st.global.v4.b32" in ptx or name != "apply"


def test_a_spill_would_be_seen(tmp_path):
    assert compiled(CASES["float32"]["apply"], 90, tmp_path, maxnreg=32).stack > 0

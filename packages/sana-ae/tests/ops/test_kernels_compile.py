"""Both kernels compiled for GPUs that need not be there: nothing spills, and registers and shared memory are as noted.

Triton's wheel brings the compilers, NVIDIA's assembler and cuobjdump.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs triton: pip install 'sana-ae[triton]'")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled: unset TRITON_INTERPRET", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from sana_ae.ops.launch import Launch  # noqa: E402
from sana_ae.ops.rms_norm import fused  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
if not CUOBJDUMP.exists():
    pytest.skip(f"this triton has no {CUOBJDUMP}", allow_module_level=True)

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}  # bytes that a program can have


class Binary(NamedTuple):
    registers: int  # of a thread
    shared: int  # bytes of a program
    stack: int  # bytes of a thread, where registers spill to
    text: str  # PTX or AMD's assembly


# What Triton 3.7.1 makes of them with SiLU and a residual: registers and shared bytes, forward and backward.
NOTED = {
    (128, "bf16", "gfx942"): [(31, 0), (82, 2048)],
    (128, "bf16", "sm_80"): [(54, 256), (128, 2048)],
    (128, "bf16", "sm_90"): [(56, 256), (128, 2048)],
    (128, "fp32", "sm_90"): [(48, 512), (128, 2048)],
    (2048, "bf16", "sm_80"): [(63, 16), (128, 4096)],
    (2048, "bf16", "sm_90"): [(63, 16), (128, 4096)],
    (2048, "fp32", "sm_90"): [(63, 16), (144, 16)],
}


def launches(
    channels: int, dtype: torch.dtype, *, act: str | None = "silu", residual: bool = True, steps: int = 64
) -> list[Launch]:
    """Forward and backward at 1024 x 1024 pixels."""
    x = torch.empty(1, 1024, 1024, channels, dtype=dtype, device="meta")
    weight, partials = x.new_empty(channels), x.new_empty(1024, 2, channels, dtype=torch.float32)
    return [
        fused.forward_launch(x, x if residual else None, weight, weight, x, act=act, eps=1e-5),
        fused.backward_launch(x, x, weight, weight, x, partials, steps=steps, act=act, eps=1e-5),
    ]


def compiled(launch: Launch, target: Any, folder: Path, **options: int) -> Binary:
    """What the launch would run: Triton is told of pointers and sizes what it would see for itself."""
    kernel, arguments, constants = launch.kernel, launch.arguments, launch.constants
    arguments = {name: value for name, value in arguments.items() if value is not None}
    constants = constants | {name: 1 for name, value in arguments.items() if is_one(value)}  # as Triton takes a 1
    arguments = {name: value for name, value in arguments.items() if not is_one(value)}
    signature = {name: kind_of(arguments[name]) if name in arguments else "constexpr" for name in kernel.arg_names}
    sixteens = [name for name, kind in signature.items() if kind[0] == "*" or is_sixteenfold(arguments.get(name))]
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs={name: constants.get(name) for name, kind in signature.items() if kind == "constexpr"},
        attrs={(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in sixteens},
    )
    binary = triton.compile(source, target=target, options={"num_warps": constants["num_warps"]} | options)
    if target.backend == "hip":
        text = binary.asm["amdgcn"]
        pattern = r"\.private_segment_fixed_size:\s+(\d+).*\.vgpr_count:\s+(\d+)"
        stack, registers = map(int, re.search(pattern, text, re.DOTALL).groups())
        return Binary(registers, binary.metadata.shared, stack, text)
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    report = subprocess.run([CUOBJDUMP, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", report).groups())
    return Binary(registers, binary.metadata.shared, stack, binary.asm["ptx"])


def complaints(binary: Binary, architecture: str) -> list[str]:
    """What keeps a kernel from running well, or at all."""
    found = [f"spills {binary.stack} bytes a thread"] if binary.stack else []
    if binary.shared > SHARED[architecture]:
        found.append(f"takes {binary.shared} shared bytes of {SHARED[architecture]}")
    return found


def kind_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    return "i32" if isinstance(value, int) else "fp32"


def is_one(value: Any) -> bool:
    return isinstance(value, int) and value == 1


def is_sixteenfold(value: Any) -> bool:
    return isinstance(value, int) and value % 16 == 0


@pytest.fixture(autouse=True)
def _fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize(("channels", "dtype", "architecture"), NOTED)
def test_kernels_take_what_is_noted_and_do_not_spill(channels, dtype, architecture, tmp_path):
    dtype = {name: dtype for dtype, name in TYPES.items()}[dtype]
    taken = [compiled(launch, TARGETS[architecture], tmp_path) for launch in launches(channels, dtype)]
    assert [complaints(binary, architecture) for binary in taken] == [[], []]
    if triton.__version__ == "3.7.1":  # another compiler allocates otherwise
        assert [binary[:2] for binary in taken] == NOTED[channels, TYPES[dtype], architecture]


@pytest.mark.parametrize(
    ("channels", "dtype", "architecture", "changes"),
    [
        (128, torch.float32, "sm_80", {}),
        (128, torch.float16, "sm_90", {}),
        (2048, torch.float16, "sm_90", {}),
        (2048, torch.bfloat16, "gfx942", {}),
        *((channels, torch.bfloat16, "sm_90", {}) for channels in (256, 512, 1024)),
        (1024, torch.bfloat16, "sm_90", {"act": "relu"}),
        (1024, torch.bfloat16, "sm_90", {"act": None, "residual": False, "steps": 1}),
    ],
)
def test_kernels_of_other_kinds_do_not_spill(channels, dtype, architecture, changes, tmp_path):
    for launch in launches(channels, dtype, **changes):
        assert not complaints(compiled(launch, TARGETS[architecture], tmp_path), architecture)


def test_a_warp_reads_whole_lines_of_128_bytes(tmp_path):
    for launch in launches(128, torch.bfloat16):
        assert "ld.global.v4.b32" in compiled(launch, TARGETS["sm_90"], tmp_path).text


def test_a_spill_would_be_seen(tmp_path):
    _, backward = launches(128, torch.bfloat16)
    binary = compiled(backward, TARGETS["sm_90"], tmp_path, maxnreg=24)
    assert complaints(binary, "sm_90") == [f"spills {binary.stack} bytes a thread"]


def test_more_shared_memory_than_a_chip_has_would_be_seen():
    assert complaints(Binary(64, 64 * 1024, 0, ""), "gfx942") == []
    assert complaints(Binary(64, 64 * 1024 + 16, 0, ""), "gfx942") == ["takes 65552 shared bytes of 65536"]

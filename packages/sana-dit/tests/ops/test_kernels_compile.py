"""Every kernel compiled for GPUs that need not be there: nothing spills, and registers and shared memory are as noted.

Triton's wheel brings the compilers, NVIDIA's assembler and cuobjdump. `kernel_resources.json` says what the version of
Triton it names makes of the kernels at the sizes of the 1.6B model; `--note-kernel-resources` writes it anew.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs triton: pip install 'sana-dit[triton]'")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled: unset TRITON_INTERPRET", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from sana_dit.ops.gated_depthwise import fused as depthwise  # noqa: E402
from sana_dit.ops.gated_residual import fused as residual  # noqa: E402
from sana_dit.ops.launch import Launch  # noqa: E402
from sana_dit.ops.linear_attention import fused as attention  # noqa: E402
from sana_dit.ops.modulated_norm import fused as modulated  # noqa: E402
from sana_dit.ops.rms_norm import fused as root_mean_square  # noqa: E402
from sana_dit.ops.tiles import TILES, Tiles  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
if not CUOBJDUMP.exists():
    pytest.skip(f"this triton has no {CUOBJDUMP}", allow_module_level=True)

NOTED = Path(__file__).parent / "kernel_resources.json"
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}  # bytes that a program can have
BATCH, SIDE = 2, 32  # at 1024 px with guidance
WIDTH, SMALL_WIDTH = 2240, 1152  # of the 1.6B and the 0.6B model


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def of_gated_residual(dtype: torch.dtype, tiles: Tiles, *, width: int = WIDTH, steps: int = 2) -> dict[str, Launch]:
    x, gate = meta(BATCH, SIDE**2, width, dtype=dtype), meta(BATCH, 6, width, dtype=dtype)[:, 2]
    return {
        "forward": residual.forward_launch(x, x, gate, x),
        "backward": residual.backward_launch(x, x, gate, x, meta(BATCH, 16, width), steps=steps),
    }


def of_modulated_norm(dtype: torch.dtype, tiles: Tiles, *, width: int = WIDTH) -> dict[str, Launch]:
    x, modulation = meta(BATCH, SIDE**2, width, dtype=dtype), meta(BATCH, 6, width, dtype=dtype)[:, 2]
    partials = meta(2, BATCH, SIDE**2 // 8, width)
    return {
        "forward": modulated.forward_launch(x, modulation, modulation, x, eps=1e-6, tiles=tiles),
        "backward": modulated.backward_launch(x, x, modulation, x, partials, eps=1e-6, rows=8, tiles=tiles),
    }


def of_gated_depthwise(dtype: torch.dtype, tiles: Tiles, *, width: int = WIDTH) -> dict[str, Launch]:
    features = 5 * width // 2
    u, out = (meta(BATCH, SIDE**2, channels, dtype=dtype) for channels in (2 * features, features))
    weight, bias = meta(2 * features, 1, 3, 3, dtype=dtype), meta(2 * features, dtype=dtype)
    partials, grid = meta(BATCH * 8, 10, 2 * features), {"height": SIDE, "width": SIDE}
    return {
        "forward": depthwise.forward_launch(u, weight, bias, out, **grid),
        "backward_of_gate": depthwise.gate_launch(out, u, weight, bias, u, **grid),
        "backward_of_convolution": depthwise.convolution_launch(u, u, weight, u, partials, **grid),
    }


def of_linear_attention(
    dtype: torch.dtype, tiles: Tiles, *, width: int = WIDTH, dim: int = 32, normed: bool = True
) -> dict[str, Launch]:
    heads = width // dim
    x, norm = meta(BATCH, SIDE**2, heads * dim, dtype=dtype), meta(heads * dim) if normed else None
    wide = meta(BATCH, SIDE**2, heads * dim, dtype=torch.float32 if normed else dtype)
    scales, states = meta(BATCH, SIDE**2) if normed else meta(0), meta(BATCH, heads, dim + 1, dim)
    parts, factors = meta(4, BATCH, heads, dim + 1, dim), (meta(BATCH, heads, SIDE**2),) * 2
    of_norm = {"norm_scales": attention.scales_launch(x, scales, eps=1e-5, tiles=tiles)} if normed else {}
    return of_norm | {
        "state_parts": attention.state_launch(x, x, norm, scales, parts, tiles=tiles),
        "forward": attention.forward_launch(x, norm, scales, states, x, eps=1e-15, tiles=tiles),
        "backward_of_query": attention.query_launch(x, x, norm, scales, states, wide, factors, eps=1e-15, tiles=tiles),
        "backward_of_state": attention.state_launch(x, x, norm, scales, parts, factors=factors, tiles=tiles),
        "backward_of_key": attention.key_launch(x, x, norm, scales, states, wide, x, tiles=tiles),
    }


def of_rms_norm(dtype: torch.dtype, tiles: Tiles, *, width: int = WIDTH) -> dict[str, Launch]:
    x, weight, partials = meta(BATCH, SIDE**2, width, dtype=dtype), meta(width, dtype=dtype), meta(SIDE, width)
    return {
        "forward": root_mean_square.forward_launch(x, weight, x, eps=1e-5, tiles=tiles),
        "backward": root_mean_square.backward_launch(x, x, weight, x, partials, eps=1e-5, rows=8, tiles=tiles),
    }


OPERATIONS: dict[str, Callable[..., dict[str, Launch]]] = {
    "gated_depthwise": of_gated_depthwise,
    "gated_residual": of_gated_residual,
    "linear_attention": of_linear_attention,
    "modulated_norm": of_modulated_norm,
    "rms_norm": of_rms_norm,
}


class Resources(NamedTuple):
    """What one kernel takes."""

    registers: int  # of a thread
    shared: int  # bytes of a program
    stack: int  # bytes of a thread, where registers spill to


class Binary(NamedTuple):
    resources: Resources
    text: str  # PTX or AMD's assembly


def compiled(launch: Launch, target: Any, folder: Path, **options: int) -> Binary:
    """What the launch would run: Triton is told of pointers and sizes what it would see for itself."""
    kernel, arguments, constants = launch.kernel, launch.arguments, launch.constants
    arguments = {name: value for name, value in arguments.items() if value is not None}
    constants = constants | {name: 1 for name, value in arguments.items() if is_one(value)}  # as Triton takes a 1
    arguments = {name: value for name, value in arguments.items() if not is_one(value)}
    signature = {name: kind_of(arguments[name]) if name in arguments else "constexpr" for name in kernel.arg_names}
    sixteens = [name for name in arguments if signature[name][0] == "*" or is_sixteenfold(arguments[name])]
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs={name: constants.get(name) for name, kind in signature.items() if kind == "constexpr"},
        attrs={(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in sixteens},
    )
    chosen = {name: value for name, value in constants.items() if name.startswith("num_")}
    binary = triton.compile(source, target=target, options=chosen | options)
    if target.backend == "hip":
        return Binary(amd_resources(binary), binary.asm["amdgcn"])
    return Binary(nvidia_resources(binary, folder / "kernel.cubin"), binary.asm["ptx"])


def kind_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    return "i32" if isinstance(value, int) else "fp32"


def is_one(value: Any) -> bool:
    return isinstance(value, int) and value == 1


def is_sixteenfold(value: Any) -> bool:
    return isinstance(value, int) and value % 16 == 0


def nvidia_resources(binary: Any, cubin: Path) -> Resources:
    cubin.write_bytes(binary.asm["cubin"])
    report = subprocess.run([CUOBJDUMP, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", report).groups())
    return Resources(registers, binary.metadata.shared, stack)


def amd_resources(binary: Any) -> Resources:
    registers, stack = (
        int(re.search(rf"\.{name}:\s+(\d+)", binary.asm["amdgcn"]).group(1))
        for name in ("vgpr_count", "private_segment_fixed_size")
    )
    return Resources(registers, binary.metadata.shared, stack)


def complaints(resources: Resources, architecture: str, noted: list[int] | None = None) -> list[str]:
    """What is wrong with a kernel; `noted` are the registers and shared memory it should take."""
    found = [f"spills {resources.stack} bytes a thread"] if resources.stack else []
    if resources.shared > SHARED[architecture]:
        found.append(f"takes {resources.shared} shared bytes of {SHARED[architecture]}")
    if noted is not None and list(resources[:2]) != noted:
        found.append(f"takes (registers, shared bytes) {list(resources[:2])}, noted were {noted}")
    return found


@pytest.fixture(autouse=True)
def _fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("dtype", "architecture"),
    [(torch.bfloat16, "sm_80"), (torch.bfloat16, "sm_90"), (torch.float32, "sm_90"), (torch.bfloat16, "gfx942")],
    ids=["bfloat16-sm_80", "bfloat16-sm_90", "float32-sm_90", "bfloat16-gfx942"],
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_take_what_is_noted_and_do_not_spill(operation, architecture, dtype, tmp_path, request):
    table = json.loads(NOTED.read_text())
    key = f"{operation} {TYPES[dtype]} {architecture}"
    launches = OPERATIONS[operation](dtype, TILES[architecture])
    taken = {name: compiled(launch, TARGETS[architecture], tmp_path).resources for name, launch in launches.items()}
    print(key, taken)
    if request.config.getoption("--note-kernel-resources", default=False):
        table |= {"triton": triton.__version__, key: {name: list(resources[:2]) for name, resources in taken.items()}}
        lines = (f"{json.dumps(name)}: {json.dumps(table[name])}" for name in sorted(table))
        NOTED.write_text("{\n " + ",\n ".join(lines) + "\n}\n")
    noted = table[key] if table["triton"] == triton.__version__ else {}  # another compiler allocates otherwise
    assert {name: complaints(resources, architecture, noted.get(name)) for name, resources in taken.items()} == {
        name: [] for name in taken
    }


@pytest.mark.parametrize(
    ("dim", "dtype", "architecture"),
    [(32, torch.float16, "sm_90"), *((dim, torch.bfloat16, name) for dim in (16, 64, 128) for name in TARGETS)],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_heads_of_other_dims_and_dtypes_do_not_spill(dim, dtype, architecture, tmp_path):
    launches = of_linear_attention(dtype, TILES[architecture], dim=dim)
    del launches["norm_scales"]  # which knows of no heads
    for name, launch in launches.items():
        assert not complaints(compiled(launch, TARGETS[architecture], tmp_path).resources, architecture), name


UNNOTED = [
    *((name, torch.float32, "sm_80", {}) for name in OPERATIONS),
    *((name, torch.float16, "sm_90", {}) for name in OPERATIONS if name != "linear_attention"),  # is above
    *((name, torch.bfloat16, "sm_90", {"width": SMALL_WIDTH}) for name in OPERATIONS),
    *(("linear_attention", torch.bfloat16, name, {"normed": False}) for name in ("sm_90", "gfx942")),
    ("gated_residual", torch.bfloat16, "sm_90", {"steps": 1}),
]


@pytest.mark.parametrize(("operation", "dtype", "architecture", "changes"), UNNOTED)
def test_kernels_of_other_dtypes_and_models_do_not_spill(operation, dtype, architecture, changes, tmp_path):
    for name, launch in OPERATIONS[operation](dtype, TILES[architecture], **changes).items():
        assert not complaints(compiled(launch, TARGETS[architecture], tmp_path).resources, architecture), name


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_warp_reads_whole_lines_of_128_bytes(operation, tmp_path):
    width = "b32" if operation == "gated_depthwise" else "v4.b32"  # two channels a thread there, else eight
    for name, launch in OPERATIONS[operation](torch.bfloat16, TILES["sm_90"]).items():
        text = compiled(launch, TARGETS["sm_90"], tmp_path).text
        assert f"ld.global.{width}" in text, name


def test_a_spill_and_other_resources_would_be_seen(tmp_path):
    launch = of_modulated_norm(torch.bfloat16, TILES["sm_90"])["backward"]
    resources = compiled(launch, TARGETS["sm_90"], tmp_path, maxnreg=32).resources
    spill, other = complaints(resources, "sm_90", [64, resources.shared])
    assert spill == f"spills {resources.stack} bytes a thread"
    assert other.startswith(f"takes (registers, shared bytes) [{resources.registers}, {resources.shared}]")


def test_more_shared_memory_than_a_chip_has_would_be_seen():
    assert complaints(Resources(64, 64 * 1024, 0), "gfx942") == []
    assert complaints(Resources(64, 64 * 1024 + 16, 0), "gfx942") == ["takes 65552 shared bytes of 65536"]

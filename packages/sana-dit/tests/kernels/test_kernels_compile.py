"""Every kernel compiled for sm_80, sm_90 and gfx942: nothing spills, and what it takes is as noted.

The table beside this file is of the sizes of the public models; `QUICK` names the part that is compiled every time.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import pytest
import torch

from sana_dit.ops.gated_depthwise import fused as depthwise
from sana_dit.ops.gated_residual import fused as residual
from sana_dit.ops.launch import Launch
from sana_dit.ops.linear_attention import fused as attention
from sana_dit.ops.modulated_norm import fused as modulated
from sana_dit.ops.rms_norm import fused as root_mean_square
from sana_dit.ops.tiles import TILES, Tiles

BATCH, SIDE = 2, 32  # at 1024 px with guidance
WIDTH, SMALL_WIDTH = 2240, 1152  # of the 1.6B and larger models, and of the 0.6B model
DIMS = (16, 32, 64, 128)
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def of_gated_residual(
    dtype: torch.dtype, tiles: Tiles, *, width: int = WIDTH, side: int = SIDE, steps: int = 2
) -> dict[str, Launch]:
    x, gate = meta(BATCH, side**2, width, dtype=dtype), meta(BATCH, 6, width, dtype=dtype)[:, 2]
    return {
        "forward": residual.forward_launch(x, x, gate, x),
        "backward": residual.backward_launch(x, x, gate, x, meta(BATCH, 16, width), steps=steps),
    }


def of_modulated_norm(dtype: torch.dtype, tiles: Tiles, *, width: int = WIDTH, side: int = SIDE) -> dict[str, Launch]:
    x, modulation = meta(BATCH, side**2, width, dtype=dtype), meta(BATCH, 6, width, dtype=dtype)[:, 2]
    partials = meta(2, BATCH, SIDE**2 // 8, width)
    return {
        "forward": modulated.forward_launch(x, modulation, modulation, x, eps=1e-6, tiles=tiles),
        "backward": modulated.backward_launch(x, x, modulation, x, partials, eps=1e-6, rows=8, tiles=tiles),
    }


def of_gated_depthwise(dtype: torch.dtype, tiles: Tiles, *, width: int = WIDTH, side: int = SIDE) -> dict[str, Launch]:
    features = max(1, 5 * width // 2)
    u, out = (meta(BATCH, side**2, channels, dtype=dtype) for channels in (2 * features, features))
    weight, bias = meta(2 * features, 1, 3, 3, dtype=dtype), meta(2 * features, dtype=dtype)
    partials, grid = meta(BATCH * 8, 10, 2 * features), {"height": side, "width": side}
    return {
        "forward": depthwise.forward_launch(u, weight, bias, out, **grid),
        "backward_of_gate": depthwise.gate_launch(out, u, weight, bias, u, **grid),
        "backward_of_convolution": depthwise.convolution_launch(u, u, weight, u, partials, **grid),
    }


def of_linear_attention(
    dtype: torch.dtype, tiles: Tiles, *, width: int = WIDTH, dim: int = 32, side: int = SIDE, normed: bool = True
) -> dict[str, Launch]:
    heads = width // dim
    x, norm = meta(BATCH, side**2, heads * dim, dtype=dtype), meta(heads * dim) if normed else None
    wide = meta(BATCH, side**2, heads * dim, dtype=torch.float32 if normed else dtype)
    scales, states = meta(BATCH, side**2) if normed else meta(0), meta(BATCH, heads, dim + 1, dim)
    parts, factors = meta(4, BATCH, heads, dim + 1, dim), (meta(BATCH, heads, side**2),) * 2
    of_norm = {"norm_scales": attention.scales_launch(x, scales, eps=1e-5, tiles=tiles)} if normed else {}
    return of_norm | {
        "state_parts": attention.state_launch(x, x, norm, scales, parts, tiles=tiles),
        "forward": attention.forward_launch(x, norm, scales, states, x, eps=1e-15, tiles=tiles),
        "backward_of_query": attention.query_launch(x, x, norm, scales, states, wide, factors, eps=1e-15, tiles=tiles),
        "backward_of_state": attention.state_launch(x, x, norm, scales, parts, factors=factors, tiles=tiles),
        "backward_of_key": attention.key_launch(x, x, norm, scales, states, wide, x, tiles=tiles),
    }


def of_rms_norm(dtype: torch.dtype, tiles: Tiles, *, width: int = WIDTH, side: int = SIDE) -> dict[str, Launch]:
    x, weight, partials = meta(BATCH, side**2, width, dtype=dtype), meta(width, dtype=dtype), meta(SIDE, width)
    return {
        "forward": root_mean_square.forward_launch(x, weight, x, eps=1e-5, tiles=tiles),
        "backward": root_mean_square.backward_launch(x, x, weight, x, partials, eps=1e-5, rows=8, tiles=tiles),
    }


ROW_OPERATIONS: dict[str, Callable[..., dict[str, Launch]]] = {
    "gated_depthwise": of_gated_depthwise,
    "gated_residual": of_gated_residual,
    "modulated_norm": of_modulated_norm,
    "rms_norm": of_rms_norm,
}
OPERATIONS = ROW_OPERATIONS | {"linear_attention": of_linear_attention}


class Configuration(NamedTuple):
    launches: Callable[[], dict[str, Launch]]
    architecture: str
    aligned: bool = True


def configurations() -> dict[str, Configuration]:
    """Every head dim, with norms and without; every width of a public model; sizes of 1; memory that is not aligned."""
    found = {}
    for architecture, dtype in product(TILES, TYPES):
        common = TYPES[dtype], TILES[architecture]
        for dim, normed in product(DIMS, (True, False)):
            name = f"linear_attention {dtype} {architecture}, heads of {dim}{', normed' if normed else ''}"
            launches = partial(of_linear_attention, *common, dim=dim, normed=normed)
            found[name] = Configuration(launches, architecture)
        for operation, width in product(ROW_OPERATIONS, (WIDTH, SMALL_WIDTH)):
            launches = partial(OPERATIONS[operation], *common, width=width)
            found[f"{operation} {dtype} {architecture}, width {width}"] = Configuration(launches, architecture)
    hopper = torch.bfloat16, TILES["sm_90"]
    for operation, make in OPERATIONS.items():
        one = 32 if operation == "linear_attention" else 1
        found[f"{operation} bf16 sm_90, of one"] = Configuration(partial(make, *hopper, width=one, side=1), "sm_90")
        found[f"{operation} bf16 sm_90, unaligned"] = Configuration(partial(make, *hopper), "sm_90", aligned=False)
    short = partial(of_gated_residual, *hopper, steps=1)
    return found | {"gated_residual bf16 sm_90, few tokens": Configuration(short, "sm_90")}


CONFIGURATIONS = configurations()
LARGE = [f"{operation} bf16 {{}}, width {WIDTH}" for operation in ROW_OPERATIONS]
QUICK = [
    *(name.format(architecture) for name in LARGE for architecture in ("sm_80", "sm_90")),
    *(f"linear_attention bf16 {architecture}, heads of 32, normed" for architecture in TILES),
    *(f"linear_attention bf16 sm_90, heads of {dim}" for dim in (16, 64, 128)),
    "linear_attention fp16 sm_80, heads of 128",
]


def test_kernels_take_what_is_noted_and_do_not_spill(configuration, assert_as_noted):
    launches, architecture, aligned = CONFIGURATIONS[configuration]
    assert_as_noted(configuration, launches(), architecture, aligned=aligned)


def test_the_table_has_every_configuration(noted_names):
    assert noted_names == list(CONFIGURATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_warp_reads_whole_lines_of_128_bytes(operation, compiled):
    least = 4 if operation == "gated_depthwise" else 16  # two channels a thread there, else eight
    for name, launch in OPERATIONS[operation](torch.bfloat16, TILES["sm_90"]).items():
        assert compiled(launch, "sm_90").load >= least, name


def test_a_spill_and_other_resources_would_be_seen(compiled, complaints):
    launch = of_modulated_norm(torch.bfloat16, TILES["sm_90"])["backward"]
    binary = compiled(launch, "sm_90", maxnreg=32)
    spill, other = complaints(binary, "sm_90", [64, binary.shared, binary.loads])
    assert spill == f"spills {binary.stack} bytes a thread"
    assert other.startswith(f"takes (registers, shared bytes, loads) [{binary.registers}, {binary.shared}, ")


def test_loads_that_are_no_longer_wide_would_be_seen(compiled, complaints):
    launch = of_gated_residual(torch.bfloat16, TILES["sm_90"])["forward"]
    wide, narrow = (compiled(launch, "sm_90", aligned=aligned) for aligned in (True, False))
    assert (wide.load, narrow.load) == (16, 2)
    assert complaints(wide, "sm_90", list(wide[:3])) == []
    assert complaints(narrow, "sm_90", [*narrow[:2], wide.loads]) != []


def test_one_operand_that_is_no_longer_read_wide_would_be_seen(compiled, complaints):
    launch = of_gated_residual(torch.bfloat16, TILES["sm_90"])["forward"]
    odd = launch._replace(arguments=launch.arguments | {"gate_stride": 6 * WIDTH + 1})
    wide, mixed = (compiled(each, "sm_90") for each in (launch, odd))
    assert (wide.load, mixed.load) == (16, 16)
    assert complaints(mixed, "sm_90", [*mixed[:2], wide.loads]) != []


def test_more_shared_memory_than_a_chip_has_would_be_seen(compiled, complaints):
    binary = compiled(of_rms_norm(torch.bfloat16, TILES["gfx942"])["forward"], "gfx942")
    assert complaints(binary._replace(shared=64 * 1024), "gfx942") == []
    assert complaints(binary._replace(shared=64 * 1024 + 16), "gfx942") == ["takes 65552 shared bytes of 65536"]

"""Both kernels compiled for sm_80, sm_90 and gfx942: nothing spills, and what they take is as noted.

The table beside this file is of the widths of DC-AE and the widest that is fused; `QUICK` names the part that is
compiled every time.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import torch

from sana_ae.ops.launch import Launch
from sana_ae.ops.rms_norm import fused

WIDTHS = (128, 256, 512, 1024, 2048)
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ARCHITECTURES = ("sm_80", "sm_90", "gfx942")


def launches(
    channels: int,
    dtype: torch.dtype,
    *,
    act: str | None = "silu",
    residual: bool = True,
    side: int = 1024,
    steps: int = 64,
) -> dict[str, Launch]:
    """Forward and backward at side x side pixels."""
    x = torch.empty(1, side, side, channels, dtype=dtype, device="meta")
    weight, partials = x.new_empty(channels), x.new_empty(1024, 2, channels, dtype=torch.float32)
    return {
        "forward": fused.forward_launch(x, x if residual else None, weight, weight, x, act=act, eps=1e-5),
        "backward": fused.backward_launch(x, x, weight, weight, x, partials, steps=steps, act=act, eps=1e-5),
    }


class Configuration(NamedTuple):
    launches: Callable[[], dict[str, Launch]]
    architecture: str
    aligned: bool = True


def configurations() -> dict[str, Configuration]:
    """Every width of DC-AE with all that can follow the norm; less after it; sizes of 1; memory that is not aligned."""
    found = {}
    for architecture, dtype, channels in product(ARCHITECTURES, TYPES, WIDTHS):
        name = f"rms_norm {dtype} {architecture}, width {channels}"
        found[name] = Configuration(partial(launches, channels, TYPES[dtype]), architecture)
    wide = partial(launches, 1024, torch.bfloat16)
    return found | {
        "rms_norm bf16 sm_90, relu": Configuration(partial(wide, act="relu"), "sm_90"),
        "rms_norm bf16 sm_90, alone": Configuration(partial(wide, act=None, residual=False, steps=1), "sm_90"),
        "rms_norm bf16 sm_90, of one": Configuration(partial(launches, 1, torch.bfloat16, side=1, steps=1), "sm_90"),
        "rms_norm bf16 sm_90, unaligned": Configuration(wide, "sm_90", aligned=False),
    }


CONFIGURATIONS = configurations()
QUICK = [
    *(f"rms_norm bf16 {architecture}, width 128" for architecture in ARCHITECTURES),
    *(f"rms_norm bf16 {architecture}, width 2048" for architecture in ("sm_80", "sm_90")),
    "rms_norm fp32 sm_90, width 2048",
]


def test_kernels_take_what_is_noted_and_do_not_spill(configuration, assert_as_noted):
    make, architecture, aligned = CONFIGURATIONS[configuration]
    assert_as_noted(configuration, make(), architecture, aligned=aligned)


def test_the_table_has_every_configuration(noted_names):
    assert noted_names == list(CONFIGURATIONS)


def test_a_warp_reads_whole_lines_of_128_bytes(compiled):
    for launch in launches(128, torch.bfloat16).values():
        assert compiled(launch, "sm_90").load == 16


def test_a_spill_would_be_seen(compiled, complaints):
    binary = compiled(launches(128, torch.bfloat16)["backward"], "sm_90", maxnreg=24)
    assert complaints(binary, "sm_90") == [f"spills {binary.stack} bytes a thread"]


def test_other_resources_would_be_seen(compiled, complaints):
    binary = compiled(launches(128, torch.bfloat16)["forward"], "gfx942")
    noted = [binary.registers, binary.shared + 16, binary.loads]
    assert complaints(binary, "gfx942", noted) == [
        f"takes (registers, shared bytes, loads) {list(binary[:3])}, noted were {noted}"
    ]
    assert complaints(binary._replace(shared=64 * 1024), "gfx942") == []
    assert complaints(binary._replace(shared=64 * 1024 + 16), "gfx942") == ["takes 65552 shared bytes of 65536"]

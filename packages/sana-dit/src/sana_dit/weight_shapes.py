"""What the names and shapes of weights tell: which configuration they need, and whether they fit one."""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from sana_dit.config import SANA_0_6B, SANA_1_6B, SanaConfig
from sana_dit.weights import Checkpoint, Layout, diffusers_name, first_few, native_name


def infer_config(checkpoint: Checkpoint) -> SanaConfig:
    """Reads a configuration off the weights of a file that comes without one.

    Shapes do not tell how a width splits into heads, so the width must be a public one, 1152 or 2240. They do not
    tell the resolution either: sample_size is 32 (1024 px) unless the file holds a position embedding, whose
    grid it then is; grids of 64 and 128 cells are the 2K and 4K models, the only ones that add it.

    Raises:
        ValueError: The width is another one.
    """
    weights, area = checkpoint.weights, checkpoint.patch_size**2
    width, fan_in = weights["patch.proj.weight"].shape
    presets = {preset.width: preset for preset in (SANA_0_6B, SANA_1_6B)}
    if width not in presets:
        raise ValueError(
            f"is {width} wide, and only the widths {sorted(presets)} say how they split into heads: put the "
            "model's config.json beside the file"
        )
    cells = checkpoint.cells or presets[width].sample_size // checkpoint.patch_size
    return replace(
        presets[width],
        in_channels=fan_in // area,
        out_channels=_size(weights, "final.proj.bias", 0, default=fan_in) // area,
        patch_size=checkpoint.patch_size,
        sample_size=cells * checkpoint.patch_size,
        interpolation_scale={64: 1.0, 128: 2.0}.get(cells),
        caption_channels=_size(weights, "caption.linear_1.weight", 1, default=2304),
        num_layers=len({match[0] for name in weights if (match := re.match(r"blocks\.\d+\.", name))}),
        qk_norm="blocks.0.self_attn.norm_q" in weights,
        guidance_embeds="time.guidance.linear_1.weight" in weights,
    )


def check_weights(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], config: SanaConfig, *, layout: Layout
) -> None:
    """Compares the weights of a file with those a model has.

    Raises:
        ValueError: Some are missing, unknown or of another shape; names the first of each kind as the file does,
            and counts them.
    """

    def in_file(name: str) -> str:
        return diffusers_name(name, config) if layout == "diffusers" else native_name(name)

    problems = {
        "missing": [in_file(name) for name in expected if name not in weights],
        "unknown": [in_file(name) for name in weights if name not in expected],
        "of another shape": [
            f"{in_file(name)} is {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
            for name in expected
            if name in weights and weights[name].shape != expected[name].shape
        ],
    }
    found = [f"{len(names)} {kind} ({first_few(names)})" for kind, names in problems.items() if names]
    if found:
        raise ValueError(
            f"does not fit a transformer of {config.num_layers} layers and width {config.width}, which has "
            f"{len(expected)} weights: {'; '.join(found)}"
        )


def _size(weights: Mapping[str, Tensor], name: str, dim: int, *, default: int) -> int:
    return weights[name].shape[dim] if name in weights else default

"""Names of the weights: ours, diffusers' and those of NVlabs' `.pth` files, and the way between them."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from sana_dit.config import SanaConfig

Layout = Literal["diffusers", "native"]
Weights = dict[str, Tensor]

# Ours, diffusers', NVlabs'. A module stands for its weight and its bias, * for the number of a block.
_NAMES = (
    ("patch.proj", "patch_embed.proj", "x_embedder.proj"),
    ("time.timestep.linear_1", "time_embed.emb.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time.timestep.linear_2", "time_embed.emb.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time.guidance.linear_1", "time_embed.guidance_embedder.linear_1", "cfg_embedder.mlp.0"),
    ("time.guidance.linear_2", "time_embed.guidance_embedder.linear_2", "cfg_embedder.mlp.2"),
    ("time.modulation", "time_embed.linear", "t_block.1"),
    ("caption.linear_1", "caption_projection.linear_1", "y_embedder.y_proj.fc1"),
    ("caption.linear_2", "caption_projection.linear_2", "y_embedder.y_proj.fc2"),
    ("caption.norm", "caption_norm.weight", "attention_y_norm.weight"),
    ("blocks.*.scale_shift_table", "transformer_blocks.*.scale_shift_table", "blocks.*.scale_shift_table"),
    ("blocks.*.self_attn.to_q", "transformer_blocks.*.attn1.to_q", "blocks.*.attn.qkv.0"),
    ("blocks.*.self_attn.to_k", "transformer_blocks.*.attn1.to_k", "blocks.*.attn.qkv.1"),
    ("blocks.*.self_attn.to_v", "transformer_blocks.*.attn1.to_v", "blocks.*.attn.qkv.2"),
    ("blocks.*.self_attn.to_out", "transformer_blocks.*.attn1.to_out.0", "blocks.*.attn.proj"),
    ("blocks.*.self_attn.norm_q", "transformer_blocks.*.attn1.norm_q.weight", "blocks.*.attn.q_norm.weight"),
    ("blocks.*.self_attn.norm_k", "transformer_blocks.*.attn1.norm_k.weight", "blocks.*.attn.k_norm.weight"),
    ("blocks.*.cross_attn.to_q", "transformer_blocks.*.attn2.to_q", "blocks.*.cross_attn.q_linear"),
    ("blocks.*.cross_attn.to_k", "transformer_blocks.*.attn2.to_k", "blocks.*.cross_attn.kv_linear.0"),
    ("blocks.*.cross_attn.to_v", "transformer_blocks.*.attn2.to_v", "blocks.*.cross_attn.kv_linear.1"),
    ("blocks.*.cross_attn.to_out", "transformer_blocks.*.attn2.to_out.0", "blocks.*.cross_attn.proj"),
    (
        "blocks.*.cross_attn.norm_q",
        "transformer_blocks.*.attn2.norm_q.weight",
        "blocks.*.cross_attn.q_norm.weight",
    ),
    (
        "blocks.*.cross_attn.norm_k",
        "transformer_blocks.*.attn2.norm_k.weight",
        "blocks.*.cross_attn.k_norm.weight",
    ),
    ("blocks.*.mix_ffn.inverted", "transformer_blocks.*.ff.conv_inverted", "blocks.*.mlp.inverted_conv.conv"),
    ("blocks.*.mix_ffn.depthwise", "transformer_blocks.*.ff.conv_depth", "blocks.*.mlp.depth_conv.conv"),
    ("blocks.*.mix_ffn.point", "transformer_blocks.*.ff.conv_point", "blocks.*.mlp.point_conv.conv"),
    ("final.proj", "proj_out", "final_layer.linear"),
    ("final.scale_shift_table", "scale_shift_table", "final_layer.scale_shift_table"),
)
_FROM = {
    "diffusers": {diffusers: ours for ours, diffusers, _ in _NAMES}
    # With a guidance embedding diffusers leaves one level out.
    | {f"time_embed.timestep_embedder.linear_{i}": f"time.timestep.linear_{i}" for i in (1, 2)},
    "native": {native: ours for ours, _, native in _NAMES},
}
_TO = {
    "diffusers": {ours: diffusers for ours, diffusers, _ in _NAMES},
    "native": {ours: native for ours, _, native in _NAMES},
}
_FUSED = {"qkv": 3, "kv_linear": 2}
_PATCH = "patch.proj.weight"
_NULL_CAPTION = "y_embedder.y_embedding"
_POSITIONS = "pos_embed"
_UNUSED = re.compile(r"logvar_linear\..*")
_POINTWISE = re.compile(r"blocks\.\d+\.mix_ffn\.(inverted|point)\.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Weights under our names, and what else a file says.

    Attributes:
        weights: In our shapes: 1x1 and patch convolutions are matrices, q, k and v are apart.
        layout: Whose names the file has.
        patch_size: Side of the kernel of the patch convolution.
        null_caption: The caption that stands for none (L, caption_channels).
        cells: Patches per side of the position embedding in the file.
    """

    weights: Weights
    layout: Layout
    patch_size: int
    null_caption: Tensor | None = None
    cells: int | None = None


def read_names(state: Weights) -> Checkpoint:
    """Renames the weights of a file; unknown names are kept, for `check_weights` to find.

    Raises:
        ValueError: They are neither named as diffusers names them nor as NVlabs does.
    """
    if "patch_embed.proj.weight" in state:
        weights = {_rename(name, _FROM["diffusers"]): w for name, w in state.items()}
        return Checkpoint(weights=_as_linear(weights), layout="diffusers", patch_size=_patch_size(weights[_PATCH]))
    if "x_embedder.proj.weight" not in state:
        raise ValueError(
            "is not a Sana transformer: neither patch_embed.proj.weight (diffusers) nor x_embedder.proj.weight "
            f"(NVlabs) is among its {len(state)} weights ({first_few(state)})"
        )
    state = {name: w for name, w in state.items() if not _UNUSED.fullmatch(name)}
    null_caption, positions = state.pop(_NULL_CAPTION, None), state.pop(_POSITIONS, None)
    weights = {_rename(name, _FROM["native"]): w for name, w in _split(state).items()}
    return Checkpoint(
        weights=_as_linear(weights),
        layout="native",
        patch_size=_patch_size(weights[_PATCH]),
        null_caption=null_caption,
        cells=None if positions is None else math.isqrt(positions.shape[-2]),
    )


def to_diffusers(weights: Mapping[str, Tensor], config: SanaConfig) -> Weights:
    """Returns our weights as diffusers names and shapes them."""
    return {diffusers_name(name, config): w for name, w in _as_convolutions(weights, config.patch_size).items()}


def to_native(weights: Mapping[str, Tensor], config: SanaConfig, null_caption: Tensor | None) -> Weights:
    """Returns our weights as NVlabs names and shapes them."""
    parts = {_rename(name, _TO["native"]): w for name, w in _as_convolutions(weights, config.patch_size).items()}
    state = _join(parts)
    return state if null_caption is None else state | {_NULL_CAPTION: null_caption}


def diffusers_name(name: str, config: SanaConfig) -> str:
    """Returns what diffusers calls our weight."""
    renamed = _rename(name, _TO["diffusers"])
    return renamed.replace("time_embed.emb.", "time_embed.") if config.guidance_embeds else renamed


def first_few(names: Iterable[str]) -> str:
    """Returns the first few of the names for a message."""
    first = list(islice(names, 4))
    return ", ".join([*first[:3], "..."] if len(first) > 3 else first)


def native_name(name: str) -> str:
    """Returns the name in NVlabs' files of the tensor that holds our weight."""
    return re.sub(r"\.(qkv|kv_linear)\.\d\.", r".\1.", _rename(name, _TO["native"]))


def _rename(name: str, table: Mapping[str, str]) -> str:
    pattern = re.sub(r"(?<=blocks\.)\d+(?=\.)", "*", name, count=1)
    number = re.search(r"(?<=blocks\.)\d+(?=\.)", name)
    module, _, kind = pattern.rpartition(".")
    if pattern in table:
        renamed = table[pattern]
    elif module in table and kind in ("weight", "bias"):
        renamed = f"{table[module]}.{kind}"
    else:
        return name
    return renamed.replace("*", number[0]) if number else renamed


def _split(state: Weights) -> Weights:
    """Takes the fused projections of NVlabs' attentions apart: qkv.weight to qkv.0.weight and so on."""
    split: Weights = {}
    for name, w in state.items():
        module, _, kind = name.rpartition(".")
        parts = _FUSED.get(module.rpartition(".")[2])
        if parts is None or w.ndim == 0 or len(w) % parts:
            split[name] = w
            continue
        # Copies, because views of one tensor cannot be saved or freed one by one.
        split |= {f"{module}.{i}.{kind}": part.clone() for i, part in enumerate(w.chunk(parts))}
    return split


def _join(parts: Weights) -> Weights:
    fused: dict[str, list[Tensor]] = {}
    for name, w in sorted(parts.items()):
        fused.setdefault(re.sub(r"\.(qkv|kv_linear)\.\d\.", r".\1.", name), []).append(w)
    return {name: ws[0] if len(ws) == 1 else torch.cat(ws) for name, ws in fused.items()}


def _as_linear(weights: Weights) -> Weights:
    return {name: w.flatten(1) if _is_linear(name) and w.ndim == 4 else w for name, w in weights.items()}


def _as_convolutions(weights: Mapping[str, Tensor], patch_size: int) -> Weights:
    def shaped(name: str, w: Tensor) -> Tensor:
        if not _is_linear(name):
            return w
        side = patch_size if name == _PATCH else 1
        return w.reshape(len(w), -1, side, side)

    return {name: shaped(name, w) for name, w in weights.items()}


def _patch_size(weight: Tensor) -> int:
    return weight.shape[-1] if weight.ndim == 4 else 1


def _is_linear(name: str) -> bool:
    return name == _PATCH or _POINTWISE.fullmatch(name) is not None

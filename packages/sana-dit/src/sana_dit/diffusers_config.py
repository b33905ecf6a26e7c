"""diffusers' config.json of a transformer and our configuration, one from the other."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from sana_dit.config import SanaConfig

CLASS_NAME = "SanaTransformer2DModel"

_SAME = (
    "in_channels",
    "out_channels",
    "patch_size",
    "sample_size",
    "interpolation_scale",
    "caption_channels",
    "num_layers",
    "num_attention_heads",
    "attention_head_dim",
    "num_cross_attention_heads",
    "cross_attention_head_dim",
    "mlp_ratio",
    "guidance_embeds",
    "guidance_embeds_scale",
    "timestep_scale",
)
# diffusers' defaults where they are not ours, for a file that leaves fields out.
_DEFAULTS: Mapping[str, Any] = {
    "num_layers": 20,
    "num_attention_heads": 70,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
}
_ACROSS_HEADS = "rms_norm_across_heads"
# Fields that no Sana checkpoint sets otherwise. Dropout never ran, and norm2 has no weights to be affine with.
_FIXED: Mapping[str, Any] = {
    "dropout": 0.0,
    "attention_bias": False,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}


def to_diffusers_config(config: SanaConfig, num_layers: int) -> dict[str, Any]:
    """Returns the fields of config.json for a model that has num_layers blocks now."""
    fields = {name: getattr(config, name) for name in _SAME}
    return {
        "_class_name": CLASS_NAME,
        **fields,
        **_FIXED,
        "num_layers": num_layers,
        "cross_attention_dim": config.width,
        "qk_norm": _ACROSS_HEADS if config.qk_norm else None,
    }


def from_diffusers_config(fields: Mapping[str, Any], *, where: str | PathLike[str] = "config.json") -> SanaConfig:
    """Returns the configuration that config.json describes, which messages call `where`.

    Raises:
        ValueError: It describes another class, or options that no Sana transformer has.
    """
    try:
        return _config(fields)
    except (TypeError, ValueError) as error:  # a string where a number belongs is a TypeError
        raise ValueError(f"{fspath(where)} {error}") from error


def _config(fields: Mapping[str, Any]) -> SanaConfig:
    if fields.get("_class_name", CLASS_NAME) != CLASS_NAME:
        raise ValueError(f"describes a {fields['_class_name']}; it must be a {CLASS_NAME}")
    known = {*_SAME, *_FIXED, "cross_attention_dim", "qk_norm"}
    unknown = sorted(name for name in fields if name not in known and not name.startswith("_"))
    if unknown:
        raise ValueError(f"has unknown fields {unknown}; known are {sorted(known)}")
    for name, value in _FIXED.items():
        if fields.get(name, value) != value:
            raise ValueError(f"has {name} = {fields[name]!r}; Sana transformers have {value!r}")
    qk_norm = fields.get("qk_norm")
    if qk_norm not in (None, _ACROSS_HEADS):
        raise ValueError(f"has qk_norm = {qk_norm!r}; it must be null or {_ACROSS_HEADS!r}")
    given = {**_DEFAULTS, **{name: fields[name] for name in _SAME if name in fields}}
    if given.get("out_channels", 1) is None:
        given["out_channels"] = given.get("in_channels", 32)
    config = SanaConfig(**given, qk_norm=qk_norm is not None)
    if fields.get("cross_attention_dim", config.width) != config.width:
        raise ValueError(
            f"has cross_attention_dim = {fields['cross_attention_dim']}; captions are projected to the width "
            f"{config.width}, so it must be that"
        )
    return config

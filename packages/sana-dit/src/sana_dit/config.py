"""The shape of a Sana transformer and the public ones as constants (SANA, table 1; SANA-1.5)."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

Compat = Literal["diffusers", "native"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SanaConfig:
    """Describes one transformer; field names are those of diffusers' config.json where it has the field.

    Attributes:
        num_layers: Transformer blocks.
        num_attention_heads: Heads of the linear self-attention; times attention_head_dim it is the width D.
        num_cross_attention_heads: Heads of the cross-attention; times cross_attention_head_dim it is D too.
        qk_norm: RMS norm of q and k over all heads, in both attentions (SANA-1.5 and Sprint).
        sample_size: Latent cells per side the checkpoint was trained for: 16 is 512 px, 32 is 1024 px.
        interpolation_scale: Switches the position embedding on and stretches it (2K: 1.0, 4K: 2.0).
        guidance_embeds: Whether the guidance scale is an input of the model (Sprint).
        guidance_embeds_scale: What a sampler multiplies the guidance scale by before it calls the model.
        timestep_scale: What a sampler multiplies the timestep by before it calls the model.
        compat: Whose numbers to reproduce where the reference implementations differ, see the properties.
    """

    in_channels: int = 32
    out_channels: int = 32
    patch_size: int = 1
    sample_size: int = 32
    interpolation_scale: float | None = None
    caption_channels: int = 2304
    num_layers: int
    num_attention_heads: int
    attention_head_dim: int = 32
    num_cross_attention_heads: int
    cross_attention_head_dim: int
    mlp_ratio: float = 2.5
    qk_norm: bool = False
    guidance_embeds: bool = False
    guidance_embeds_scale: float = 0.1
    timestep_scale: float = 1.0
    compat: Compat = "diffusers"

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.mlp_width < 1:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio} and width {self.width}; their product must be at least 1")
        if self.sample_size % self.patch_size:
            raise ValueError(
                f"sample_size is {self.sample_size} and patch_size {self.patch_size}; the first must be a multiple"
            )
        if self.compat not in get_args(Compat):
            raise ValueError(f"compat is {self.compat!r}; it must be one of {get_args(Compat)}")
        self._check_cross_width()
        self._check_positions()

    def _check_cross_width(self) -> None:
        cross_width = self.num_cross_attention_heads * self.cross_attention_head_dim
        if cross_width != self.width:
            raise ValueError(
                f"cross-attention is {self.num_cross_attention_heads} heads x {self.cross_attention_head_dim} "
                f"= {cross_width} wide and self-attention {self.num_attention_heads} x {self.attention_head_dim} "
                f"= {self.width}; the two products must be equal"
            )

    def _check_positions(self) -> None:
        if self.interpolation_scale is None:
            return
        if self.interpolation_scale <= 0:
            raise ValueError(
                f"interpolation_scale is {self.interpolation_scale}; it must be positive, or None for no position "
                "embedding"
            )
        if self.width % 4:
            raise ValueError(f"width is {self.width}; a position embedding needs a multiple of 4")

    @property
    def width(self) -> int:
        """Channels of a token, D."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mlp_width(self) -> int:
        """Channels behind the gate of the Mix-FFN, F."""
        return int(self.mlp_ratio * self.width)

    @property
    def linear_attention_eps(self) -> float:
        """What is added to the normaliser of the linear attention."""
        return 1e-15 if self.compat == "diffusers" else 1e-8

    @property
    def cross_norm_eps(self) -> float:
        """Epsilon of the RMS norm of q and k in the cross-attention; in the self-attention it is 1e-5."""
        return 1e-5 if self.compat == "diffusers" else 1e-6

    @property
    def linear_attention_upcast(self) -> bool:
        """Whether the linear attention of a bfloat16 model multiplies in float32."""
        return self.compat == "diffusers"


_COUNTS = (
    "in_channels",
    "out_channels",
    "patch_size",
    "sample_size",
    "caption_channels",
    "num_layers",
    "num_attention_heads",
    "attention_head_dim",
    "num_cross_attention_heads",
    "cross_attention_head_dim",
)

SANA_0_6B = SanaConfig(num_layers=28, num_attention_heads=36, num_cross_attention_heads=16, cross_attention_head_dim=72)
SANA_1_6B = SanaConfig(
    num_layers=20, num_attention_heads=70, num_cross_attention_heads=20, cross_attention_head_dim=112
)
SANA_1_6B_2K = replace(SANA_1_6B, sample_size=64, interpolation_scale=1.0)
SANA_1_6B_4K = replace(SANA_1_6B, sample_size=128, interpolation_scale=2.0)

SANA_1_5_1_6B = replace(SANA_1_6B, qk_norm=True)
SANA_1_5_3_2B = replace(SANA_1_5_1_6B, num_layers=40)
SANA_1_5_4_8B = replace(SANA_1_5_1_6B, num_layers=60)

SANA_SPRINT_0_6B = replace(SANA_0_6B, qk_norm=True, guidance_embeds=True)
SANA_SPRINT_1_6B = replace(SANA_1_6B, qk_norm=True, guidance_embeds=True)

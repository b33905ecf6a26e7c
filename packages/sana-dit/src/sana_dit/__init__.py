"""The linear diffusion transformer of SANA 1.0, 1.5 and Sprint."""

from importlib.metadata import version

from sana_dit import ops
from sana_dit.block import SanaBlock
from sana_dit.config import (
    SANA_0_6B,
    SANA_1_5_1_6B,
    SANA_1_5_3_2B,
    SANA_1_5_4_8B,
    SANA_1_6B,
    SANA_1_6B_2K,
    SANA_1_6B_4K,
    SANA_SPRINT_0_6B,
    SANA_SPRINT_1_6B,
    SanaConfig,
)
from sana_dit.ops import gated_depthwise, gated_residual, linear_attention, modulated_norm, rms_norm
from sana_dit.transformer import SanaTransformer

__version__ = version("sana-dit")

__all__ = [
    "SANA_0_6B",
    "SANA_1_5_1_6B",
    "SANA_1_5_3_2B",
    "SANA_1_5_4_8B",
    "SANA_1_6B",
    "SANA_1_6B_2K",
    "SANA_1_6B_4K",
    "SANA_SPRINT_0_6B",
    "SANA_SPRINT_1_6B",
    "SanaBlock",
    "SanaConfig",
    "SanaTransformer",
    "__version__",
    "gated_depthwise",
    "gated_residual",
    "linear_attention",
    "modulated_norm",
    "ops",
    "rms_norm",
]

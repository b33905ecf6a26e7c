"""The linear diffusion transformer of SANA 1.0, 1.5 and Sprint, with its samplers and caption encoder."""

from importlib.metadata import version

from sana_dit import ops
from sana_dit.accelerate import accelerate_diffusers
from sana_dit.block import SanaBlock
from sana_dit.captions import CaptionCutWarning, CaptionEncoder, Captions
from sana_dit.conditioning import Conditioning
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
from sana_dit.guidance import GuidedVelocity, guided_velocity
from sana_dit.lora import fuse_lora, load_lora, unfuse_lora, unload_lora
from sana_dit.lora_training import LORA_TARGETS, TrainableLora, add_lora, save_lora
from sana_dit.ops import gated_depthwise, gated_residual, linear_attention, modulated_norm, rms_norm
from sana_dit.quantization import Quantization, quantize_linears
from sana_dit.sampling import (
    OnStep,
    Velocity,
    draw_noise,
    euler,
    flow_dpm_solver,
    flow_sigmas,
    scm,
    seeded_generators,
    seeded_noise,
)
from sana_dit.step_graphs import StepGraphs
from sana_dit.transformer import SanaTransformer

__version__ = version("sana-dit")

__all__ = [
    "LORA_TARGETS",
    "SANA_0_6B",
    "SANA_1_5_1_6B",
    "SANA_1_5_3_2B",
    "SANA_1_5_4_8B",
    "SANA_1_6B",
    "SANA_1_6B_2K",
    "SANA_1_6B_4K",
    "SANA_SPRINT_0_6B",
    "SANA_SPRINT_1_6B",
    "CaptionCutWarning",
    "CaptionEncoder",
    "Captions",
    "Conditioning",
    "GuidedVelocity",
    "OnStep",
    "Quantization",
    "SanaBlock",
    "SanaConfig",
    "SanaTransformer",
    "StepGraphs",
    "TrainableLora",
    "Velocity",
    "__version__",
    "accelerate_diffusers",
    "add_lora",
    "draw_noise",
    "euler",
    "flow_dpm_solver",
    "flow_sigmas",
    "fuse_lora",
    "gated_depthwise",
    "gated_residual",
    "guided_velocity",
    "linear_attention",
    "load_lora",
    "modulated_norm",
    "ops",
    "quantize_linears",
    "rms_norm",
    "save_lora",
    "scm",
    "seeded_generators",
    "seeded_noise",
    "unfuse_lora",
    "unload_lora",
]

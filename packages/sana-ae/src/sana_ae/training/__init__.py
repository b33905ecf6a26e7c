"""Training a DC-AE: its three phases, their losses, the discriminator, and what measures the result."""

from sana_ae.training.discriminator import PatchDiscriminator
from sana_ae.training.image_folder import ImageFolder
from sana_ae.training.inception import InceptionV3
from sana_ae.training.lpips import LPIPS
from sana_ae.training.metrics import FrechetDistance, as_pixels, reconstruction_metrics
from sana_ae.training.objective import (
    AdversarialAutoencoder,
    AutoencoderObjective,
    DiscriminatorOutput,
    Perceptual,
    as_images,
)
from sana_ae.training.phases import (
    HIGH_RESOLUTION_LATENT,
    LOW_RESOLUTION_FULL,
    LOW_RESOLUTION_REFINEMENT,
    TrainingPhase,
    freeze_for,
)
from sana_ae.training.recomputation import recompute_blocks
from sana_ae.training.ssim import MultiScaleSSIM, multiscale_ssim, ssim
from sana_ae.training.validation import ReconstructionValidation

__all__ = [
    "HIGH_RESOLUTION_LATENT",
    "LOW_RESOLUTION_FULL",
    "LOW_RESOLUTION_REFINEMENT",
    "LPIPS",
    "AdversarialAutoencoder",
    "AutoencoderObjective",
    "DiscriminatorOutput",
    "FrechetDistance",
    "ImageFolder",
    "InceptionV3",
    "MultiScaleSSIM",
    "PatchDiscriminator",
    "Perceptual",
    "ReconstructionValidation",
    "TrainingPhase",
    "as_images",
    "as_pixels",
    "freeze_for",
    "multiscale_ssim",
    "recompute_blocks",
    "reconstruction_metrics",
    "ssim",
]

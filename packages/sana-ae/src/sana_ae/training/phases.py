"""The three phases of training a DC-AE, and the parts that each moves (DC-AE, section 3.2 and figure 6)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

from torch import nn

from sana_ae.autoencoder import DCAE

Parts = Literal["all", "middle", "decoder", "decoder_head"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPhase:
    """What one phase trains, on images of which size, and by which losses.

    Attributes:
        resolution: side of the square images, in pixels.
        trains: "all"; "middle", the encoder's head and the decoder's input; "decoder"; or "decoder_head".
        stages: how many stages count as middle (on each side of the latent) or as head, next to the convolutions that
            are there always. The paper varies this number and publishes no layer names.
        perceptual_weight: factor on the perceptual distance; that on the mean absolute error is 1.
        adversarial_weight: factor on the discriminator's opinion; without it there is no discriminator.
        adversarial_warmup: steps over which that factor rises linearly from 0, so that no untrained discriminator
            speaks.
        adaptive: scale the discriminator's opinion so that its gradient is as large as that of the reconstruction
            (VQGAN, equation 7).
        latent_noise: standard deviation of the noise that latents get before they are decoded, where those that a
            diffusion model sees have about 1: a decoder for generated latents must bear some.
        lr: learning rate of the autoencoder and the discriminator.
        betas: of AdamW.
        weight_decay: of the autoencoder.

    Raises:
        ValueError: a number is out of its range.
    """

    resolution: int
    trains: Parts
    stages: int = 1
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.0
    adversarial_warmup: int = 0
    adaptive: bool = False
    latent_noise: float = 0.0
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.trains not in get_args(Parts):
            raise ValueError(f"trains is {self.trains!r}; it must be one of {list(get_args(Parts))}")
        if self.resolution < 1:
            raise ValueError(f"resolution is {self.resolution}; images need at least one pixel a side")
        for name in (
            "stages", "perceptual_weight", "adversarial_weight", "adversarial_warmup", "latent_noise", "lr",
            "weight_decay",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if any(not 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; both must be in [0, 1)")
        if self.adversarial_weight == 0 and (self.adaptive or self.adversarial_warmup):
            raise ValueError(
                f"adversarial_weight is 0, adaptive {self.adaptive} and adversarial_warmup {self.adversarial_warmup}: "
                "there is no discriminator to weigh; give adversarial_weight, or leave them out"
            )


# Sizes, learning rates, betas and weight decays are the paper's. It gives no weights of its losses: 1 for perception is
# VQGAN's, 0.5 and adaptive for the discriminator latent diffusion's; nor a weight decay for the third phase.
LOW_RESOLUTION_FULL = TrainingPhase(resolution=256, trains="all", lr=6.4e-5, weight_decay=0.1)
HIGH_RESOLUTION_LATENT = TrainingPhase(resolution=1024, trains="middle", lr=1.6e-5, weight_decay=0.001)
LOW_RESOLUTION_REFINEMENT = TrainingPhase(
    resolution=256,
    trains="decoder_head",
    adversarial_weight=0.5,
    adversarial_warmup=1000,
    adaptive=True,
    lr=5.4e-5,
    betas=(0.5, 0.9),
)


def freeze_for(autoencoder: DCAE, phase: TrainingPhase) -> None:
    """Let exactly the parameters that `phase` trains have gradients.

    Raises:
        ValueError: the autoencoder has fewer stages than the phase asks for, or cannot take images of its size.
    """
    f = autoencoder.config.compression
    if phase.resolution % f:
        raise ValueError(f"resolution is {phase.resolution} pixels; this autoencoder takes multiples of {f}")
    autoencoder.requires_grad_(False)
    for part in _trained(autoencoder, phase):
        part.requires_grad_(True)


def _trained(autoencoder: DCAE, phase: TrainingPhase) -> Iterator[nn.Module]:
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    match phase.trains:
        case "all":
            yield autoencoder
        case "middle":
            yield from _stages(reversed(encoder.down_blocks), phase.stages)
            yield encoder.conv_out
            yield decoder.conv_in
            yield from _stages(reversed(decoder.up_blocks), phase.stages)
        case "decoder":
            yield decoder
        case "decoder_head":
            yield from _stages(iter(decoder.up_blocks), phase.stages)
            yield decoder.norm_out
            yield decoder.conv_out


def _stages(stages: Iterator[nn.Module], count: int) -> list[nn.Module]:
    """The first `count` stages that have layers: that of full resolution may be empty."""
    chosen = list(islice((stage for stage in stages if len(list(stage.children()))), count))
    if len(chosen) < count:
        raise ValueError(f"stages is {count}; this autoencoder has {len(chosen)} on each side")
    return chosen

"""The loss of an autoencoder and its discriminator: both learn from one backward pass."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from sana_ae.autoencoder import DCAE
from sana_ae.training.discriminator import PatchDiscriminator, adaptive_weight, discriminator_loss, generator_loss
from sana_ae.training.phases import TrainingPhase, freeze_for
from sana_ae.training.ssim import MultiScaleSSIM


class Perceptual(Protocol):
    """How different two images look: `MultiScaleSSIM`, `LPIPS`, or any other."""

    def __call__(self, decoded: Tensor, images: Tensor, /) -> Tensor:
        """The distance of images (B, 3, H, W) in [-1, 1]: (B,), 0 for equal ones."""


class StepDraws(Protocol):
    """The step and its random numbers, as a trainer hands them out."""

    @property
    def step(self) -> int:
        """The optimizer step, from 0."""

    def normal(self, shape: Sequence[int], purpose: str, /) -> Tensor:
        """Standard normal values of `shape`, the same for a step and a purpose."""


class DiscriminatorOutput(NamedTuple):
    """Decoded images (B, 3, H, W), and the logits of the discriminator where there is one.

    Attributes:
        decoded: the images.
        generator_logits: of the decoded images by the discriminator as a constant: the generator learns from them.
        fake_logits: of the decoded images as constants: the discriminator learns from these and the next.
        real_logits: of the images that were encoded.
    """

    decoded: Tensor
    generator_logits: Tensor | None = None
    fake_logits: Tensor | None = None
    real_logits: Tensor | None = None


class AdversarialAutoencoder(nn.ModuleDict):
    """An autoencoder in one of its training phases, with the discriminator that the phase asks for.

    Parameters that the phase does not train are frozen, and their modules stay in eval mode: batch-norm averages too.

    Args:
        autoencoder: is trained in place.
        phase: what of it is trained, and whether against a discriminator.
        discriminator: gives logits of images, and has the `fixed` of `PatchDiscriminator`, which None stands for.
    """

    autoencoder: DCAE

    def __init__(self, autoencoder: DCAE, phase: TrainingPhase, *, discriminator: nn.Module | None = None) -> None:
        super().__init__({"autoencoder": autoencoder})
        freeze_for(autoencoder, phase)
        if phase.adversarial_weight > 0:
            self["discriminator"] = discriminator or PatchDiscriminator()

    def forward(self, images: Tensor, *, noise: Tensor | None = None, judged: bool = False) -> DiscriminatorOutput:
        """Decode the latents of images (B, 3, H, W), with `noise` in a diffusion model's scale, and judge them."""
        latents = self.autoencoder.encode(images)
        if noise is not None:
            latents = latents + noise.to(latents) / self.autoencoder.config.scaling_factor
        decoded = self.autoencoder.decode(latents)
        if not judged or "discriminator" not in self:
            return DiscriminatorOutput(decoded)
        discriminator = self["discriminator"]
        return DiscriminatorOutput(
            decoded,
            generator_logits=discriminator(decoded, fixed=True),
            fake_logits=discriminator(decoded.detach()),
            real_logits=discriminator(images),
        )

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode all modules that have something to train."""
        super().train(mode)
        for module in self.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
        return self

    def parameter_groups(self, phase: TrainingPhase) -> list[dict[str, Any]]:
        """What AdamW gets: the trained parameters of the autoencoder, and those of the discriminator."""
        trained = [parameter for parameter in self.autoencoder.parameters() if parameter.requires_grad]
        shared = {"lr": phase.lr, "betas": phase.betas}
        groups = [{"params": trained, "weight_decay": phase.weight_decay, **shared}]
        if "discriminator" in self:
            groups.append({"params": list(self["discriminator"].parameters()), "weight_decay": 0.0, **shared})
        return groups

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Write the autoencoder alone, as `DCAE.save_pretrained` does."""
        self.autoencoder.save_pretrained(directory)


class AutoencoderObjective:
    """Absolute error, perceptual distance and the discriminator's opinion; and what the discriminator learns from.

    Args:
        phase: the weights of the terms.
        perceptual: how different two images look; on the device of the model. None is `MultiScaleSSIM`.
    """

    def __init__(self, phase: TrainingPhase, perceptual: Perceptual | None = None) -> None:
        self.phase = phase
        self.perceptual = perceptual or MultiScaleSSIM()

    def __call__(self, model: nn.Module, batch: dict[str, Any], draws: StepDraws) -> Tensor:
        """The loss of batch["images"] (B, 3, H, W), in [-1, 1] or bytes, a mean over the images."""
        images = as_images(batch["images"])
        noise = self._noise(model, images, draws) if self.phase.latent_noise > 0 else None
        output: DiscriminatorOutput = model(images, noise=noise, judged=True)
        loss = self.reconstruction(output.decoded.float(), images)
        if output.generator_logits is None:
            return loss
        assert output.real_logits is not None
        assert output.fake_logits is not None
        opinion = generator_loss(output.generator_logits)
        if self.phase.adaptive:
            opinion = opinion * adaptive_weight(loss, opinion, output.decoded)
        opinion = opinion * self.adversarial_factor(draws.step)
        # Logits have no scale: the value of an opinion would drown the others' and look like spikes, so only its
        # gradient counts.
        return loss + (opinion - opinion.detach()) + discriminator_loss(output.real_logits, output.fake_logits)

    def reconstruction(self, decoded: Tensor, images: Tensor) -> Tensor:
        """The terms that need no discriminator."""
        loss = (decoded - images).abs().mean()
        if self.phase.perceptual_weight > 0:
            loss = loss + self.phase.perceptual_weight * self.perceptual(decoded, images).mean()
        return loss

    def adversarial_factor(self, step: int) -> float:
        """The weight of the discriminator's opinion at optimizer step `step`."""
        warmup = self.phase.adversarial_warmup
        return self.phase.adversarial_weight * (min(1.0, (step + 1) / warmup) if warmup else 1.0)

    def _noise(self, model: nn.Module, images: Tensor, draws: StepDraws) -> Tensor:
        assert isinstance(model, AdversarialAutoencoder)
        config = model.autoencoder.config
        f = config.compression
        shape = (len(images), config.latent_channels, images.shape[2] // f, images.shape[3] // f)
        return self.phase.latent_noise * draws.normal(shape, "latent noise").to(images.device)


def as_images(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1], from bytes or as they are."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images

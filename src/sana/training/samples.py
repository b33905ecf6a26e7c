"""Pictures that a model draws while it is trained, always from the same prompts and noise."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from sana.pixels import to_pil
from sana.png import save_png
from sana.training.settings import SampleSettings
from sana_ae import DCAE
from sana_dit import (
    CaptionEncoder,
    Captions,
    SanaTransformer,
    TrainableLora,
    flow_dpm_solver,
    guided_velocity,
    seeded_noise,
)
from sana_train.distributed import rank


class TrainingSamples:
    """Draws the prompts of [samples] with the model in training; `Trainer` calls it with a folder of the step.

    Prompts are encoded once, here. Every process draws, since the model may be sharded; the first one writes.

    Args:
        settings: prompts, steps, scale and seed.
        autoencoder: decodes on the device that it is on.
        encoder: of the captions.
        null_caption: what stands for no caption in guidance, or None for the encoder's caption of "".
        shift: flow shift of the noise levels.
        precision: "bf16" runs the model under autocast, as training does.
    """

    def __init__(
        self,
        settings: SampleSettings,
        autoencoder: DCAE,
        encoder: CaptionEncoder,
        *,
        null_caption: Tensor | None,
        shift: float,
        precision: str,
    ) -> None:
        self.settings = settings
        self.autoencoder = autoencoder
        self.captions = encoder(list(settings.prompts))
        self.negative = encoder("", chi=False) if null_caption is None else None
        self.shift = shift
        self.precision = precision

    @torch.no_grad()  # not inference_mode: what FSDP gathers within it cannot be trained on afterwards
    def __call__(self, model: nn.Module, folder: Path) -> None:
        """Write one PNG per prompt into `folder`, with its prompt, seed and settings inside."""
        model = _transformer(model)
        device = next(self.autoencoder.parameters()).device
        captions = Captions(*(tensor.to(device) for tensor in self.captions))
        negative = None if self.negative is None else Captions(*(tensor.to(device) for tensor in self.negative))
        config, seeds = model.config, range(self.settings.seed, self.settings.seed + len(self.settings.prompts))
        noise = seeded_noise(seeds, (config.in_channels, config.sample_size, config.sample_size)).to(device)
        velocity = guided_velocity(model, captions, negative, guidance_scale=self.settings.guidance_scale)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            latents = flow_dpm_solver(velocity, noise, steps=self.settings.steps, shift=self.shift)
        images = self._decoded(latents)
        if rank() != 0:
            return
        for seed, prompt, picture in zip(seeds, self.settings.prompts, to_pil(images), strict=True):
            record = {"prompt": prompt, "seed": seed, "steps": self.settings.steps}
            save_png(picture, folder / f"{seed}.png", record | {"guidance_scale": self.settings.guidance_scale})

    def _decoded(self, latents: Tensor) -> Tensor:
        dtype = next(self.autoencoder.parameters()).dtype
        scaled = (latents / self.autoencoder.config.scaling_factor).to(dtype)
        return torch.cat([self.autoencoder.decode(one[None]).float() for one in scaled])


def _transformer(model: nn.Module) -> SanaTransformer:
    """The transformer in training, or the one beside which an adapter is; the trainer shards its factors again."""
    if isinstance(model, TrainableLora):
        if isinstance(model, FSDPModule):
            model.unshard()
        return model.transformer
    assert isinstance(model, SanaTransformer)
    return model

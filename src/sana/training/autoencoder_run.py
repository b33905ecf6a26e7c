"""The objects of an autoencoder's training run, made from its settings: sana_ae's objective in sana_train's loop."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from sana.catalog import locate
from sana.pixels import to_pil
from sana.png import save_png
from sana.training.autoencoder_settings import AutoencoderRun, AutoencoderSettings
from sana_ae import DCAE
from sana_ae.training import (
    LPIPS,
    AdversarialAutoencoder,
    AutoencoderObjective,
    ImageFolder,
    InceptionV3,
    ReconstructionValidation,
    as_images,
    recompute_blocks,
)
from sana_train import Trainer
from sana_train.distributed import rank

VGG16 = "https://download.pytorch.org/models/vgg16-397923af.pth"
HEADS = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth"
SCALED_ON = 256  # images that the scale of the latents is measured on


def make_autoencoder_trainer(
    run: AutoencoderRun, *, device: torch.device, resume: bool = False, allow_changes: bool = False
) -> Trainer:
    """The trainer of a run, ready to `fit()`; see `sana.training.run.make_trainer`.

    Raises:
        FileNotFoundError: images, a checkpoint or the weights of a measure are not there.
        ValueError: images, phase and autoencoder do not go together.
        CheckpointError: the run cannot be resumed with these settings.
    """
    perceptual, inception = _lpips(run, device), _inception(run, device)  # wrong files show before folders are searched
    images = training_images(run)
    torch.manual_seed(run.train.seed)
    model = AdversarialAutoencoder(make_autoencoder(run.autoencoder), run.phase)
    if run.train.activation_checkpointing:
        recompute_blocks(model.autoencoder)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    held_out = None if run.validation is None else _held_out(run)
    # The trainer would recompute whole stages, which keeps more than `recompute_blocks` does.
    config = replace(run.train, activation_checkpointing=False)
    make = Trainer.start_or_resume if resume else Trainer
    options = {"allow_changes": allow_changes} if resume else {}
    return make(
        model,
        AutoencoderObjective(run.phase, perceptual),
        _optimizer(run),
        images,
        config,
        validation=_validation(run, held_out, perceptual, inception),
        sample=_samples(run, held_out),
        settings=_fixed(run, images),
        **options,
    )


def training_images(run: AutoencoderRun) -> ImageFolder:
    """The images of [data] in the size of the phase."""
    return ImageFolder(
        run.data.images,
        size=run.phase.resolution,
        batch_size=run.data.batch_size,
        seed=run.data.seed,
        max_bad=run.data.max_bad,
        progress=run.train.progress,
    )


def make_autoencoder(settings: AutoencoderSettings) -> DCAE:
    """The autoencoder from its checkpoint, in fp32, or with random weights."""
    if settings.init is not None:
        source, revision = locate(settings.init)
        return DCAE.from_pretrained(source, revision=revision, dtype=torch.float32)
    assert settings.config is not None
    return DCAE(settings.config)


@torch.inference_mode()
def write_scaling_factor(run: AutoencoderRun, *, device: torch.device) -> float:
    """Measure what makes the latents' standard deviation one, and write it into the model of a finished run.

    A phase that leaves the encoder as it was keeps the factor it began with.
    """
    folder = Path(run.train.run_dir) / "model"
    autoencoder = DCAE.from_pretrained(folder, device=device)
    if run.phase.trains not in ("all", "middle"):
        return autoencoder.config.scaling_factor
    images = training_images(run).fixed(SCALED_ON)
    latents = torch.cat([autoencoder.encode(as_images(image.to(device))) for image in torch.split(images, 1)])
    factor = round(float(1 / latents.std()), 5)
    autoencoder.config = replace(autoencoder.config, scaling_factor=factor)
    autoencoder.save_pretrained(folder)
    return factor


class ReconstructionSamples:
    """Draws held-out images above their reconstructions; `Trainer` calls it with a folder of the step."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    @torch.no_grad()
    def __call__(self, model: nn.Module, folder: Path) -> None:
        """Write reconstructions.png into `folder`. Every process draws, the first one writes."""
        device = next(model.parameters()).device
        originals = [as_images(image.to(device)) for image in torch.split(self.images, 1)]
        decoded = [model(image).decoded.float() for image in originals]
        if rank() != 0:
            return
        sheet = torch.cat([torch.cat(originals, dim=3), torch.cat(decoded, dim=3)], dim=2)
        save_png(to_pil(sheet)[0], folder / "reconstructions.png", {"images": len(originals)})


def _optimizer(run: AutoencoderRun) -> Callable[[nn.Module], Optimizer]:
    def make(prepared: nn.Module) -> Optimizer:
        assert isinstance(prepared, AdversarialAutoencoder)
        return AdamW(prepared.parameter_groups(run.phase))

    return make


def _fixed(run: AutoencoderRun, images: ImageFolder) -> dict[str, Any]:
    """What decides what a run learns, apart from [train]: a resumed run must have the same."""
    return {
        "phase": asdict(run.phase),
        "data": {"images": images.fingerprint, "batch_size": run.data.batch_size, "seed": run.data.seed},
        "perception": "MS-SSIM" if run.perception is None else "LPIPS",
    }


def _lpips(run: AutoencoderRun, device: torch.device) -> LPIPS | None:
    if run.perception is None:
        return None
    try:
        return LPIPS.from_files(vgg16=run.perception.vgg16, heads=run.perception.heads).to(device)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} ({VGG16} and {HEADS}), or leave [perception] out: MS-SSIM needs no files"
        ) from error


def _inception(run: AutoencoderRun, device: torch.device) -> InceptionV3 | None:
    if run.validation is None or run.validation.inception is None or run.train.validate_every == 0:
        return None
    return InceptionV3.from_file(run.validation.inception).to(device)


def _held_out(run: AutoencoderRun) -> Tensor:
    assert run.validation is not None
    folder = ImageFolder(
        run.validation.images, size=run.phase.resolution, batch_size=1, progress=run.train.progress
    )  # fmt: skip
    return folder.fixed(max(run.validation.count, run.validation.samples))


def _validation(
    run: AutoencoderRun, held_out: Tensor | None, perceptual: LPIPS | None, inception: InceptionV3 | None
) -> ReconstructionValidation | None:
    if held_out is None or run.validation is None or run.train.validate_every == 0:
        return None
    images = held_out[: run.validation.count]
    return ReconstructionValidation(
        images, batch_size=run.validation.batch_size, perceptual=perceptual, features=inception
    )


def _samples(run: AutoencoderRun, held_out: Tensor | None) -> ReconstructionSamples | None:
    if held_out is None or run.validation is None or run.train.sample_every == 0:
        return None
    return ReconstructionSamples(held_out[: run.validation.samples])

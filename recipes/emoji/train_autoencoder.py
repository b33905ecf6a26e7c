"""Train the emoji autoencoder, an f32c32 DC-AE: all of it, then the head of its decoder (DC-AE, section 3.2)."""

import argparse
import copy
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.optim import AdamW

from recipes.emoji.epoch_order import EpochOrder
from recipes.emoji.rendering import Pictures, render_scenes
from recipes.emoji.scenes import SIZE
from recipes.emoji.sprites import FolderSprites, FontSprites
from sana_ae import DCAE, DCAEConfig
from sana_ae.training import (
    LOW_RESOLUTION_FULL,
    LOW_RESOLUTION_REFINEMENT,
    AdversarialAutoencoder,
    AutoencoderObjective,
    PatchDiscriminator,
    TrainingPhase,
    as_images,
    as_pixels,
    reconstruction_metrics,
)
from sana_train import TrainConfig, Trainer

STAGES = 6
CHANNELS = (16, 32, 64, 128, 256, 256)
HELD_OUT = 256  # scenes of another sequence, to measure on

EMOJI_DCAE = DCAEConfig(
    latent_channels=32,
    encoder_block_types=("ResBlock",) * STAGES,
    decoder_block_types=("ResBlock",) * STAGES,
    encoder_block_out_channels=CHANNELS,
    decoder_block_out_channels=CHANNELS,
    encoder_layers_per_block=(0, 1, 1, 1, 1, 1),
    decoder_layers_per_block=(0, 1, 2, 2, 2, 1),
    encoder_qkv_multiscales=((),) * STAGES,
    decoder_qkv_multiscales=((),) * STAGES,
    decoder_norm_types=("rms_norm",) * STAGES,
    decoder_act_fns=("silu",) * STAGES,
)

# There is one resolution here, so nothing to adapt to: the second of DC-AE's phases is left out.
FULL = replace(LOW_RESOLUTION_FULL, resolution=SIZE, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
DECODER = replace(FULL, trains="decoder", lr=5e-4, latent_noise=0.05)
HEAD = replace(LOW_RESOLUTION_REFINEMENT, resolution=SIZE, adversarial_weight=0.1, lr=1e-4)


class RenderedScenes:
    """Batches of rendered scenes as a pure function of the step: images (B, 3, 128, 128) as bytes."""

    def __init__(self, pictures: Pictures, *, batch_size: int, device: str = "cpu") -> None:
        self.pictures = torch.from_numpy(pictures).to(device)  # (N, 128, 128, 3)
        self.order = EpochOrder(len(pictures), batch_size)

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        picked = self.order(step)
        images = self.pictures[picked.to(self.pictures.device)].movedim(-1, 1)
        return {"images": images, "key": [str(index) for index in picked.tolist()]}


def to_tensor(images: Pictures) -> Tensor:
    """Pixels (B, H, W, 3) in 0..255 -> (B, 3, H, W) in [-1, 1]."""
    return as_images(torch.from_numpy(images).movedim(-1, 1))


def scaling_factor(autoencoder: DCAE, images: Tensor) -> float:
    """What makes the latents' standard deviation one."""
    with torch.inference_mode():
        latents = torch.cat([autoencoder.encode(chunk) for chunk in torch.split(images, 32)])
    return round(float(1 / latents.std()), 5)


def measure(autoencoder: DCAE, images: Tensor) -> dict[str, float]:
    """PSNR in dB and SSIM over images (N, 3, H, W)."""
    with torch.inference_mode():
        measured = reconstruction_metrics(autoencoder, images)
    return {name: round(value, 4) for name, value in measured.items()}


def side_by_side(autoencoders: list[DCAE], images: Tensor) -> Image.Image:
    """Originals above the reconstructions of each autoencoder."""
    with torch.inference_mode():
        rows = [images, *(autoencoder(images) for autoencoder in autoencoders)]
    sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    return Image.fromarray(as_pixels(sheet).byte().movedim(0, -1).cpu().numpy())


def train(autoencoder: DCAE, phase: TrainingPhase, scenes: RenderedScenes, config: TrainConfig, device: str) -> DCAE:
    """Train one phase, or go on with it; the result, averaged."""
    torch.manual_seed(0)
    model = AdversarialAutoencoder(autoencoder, phase, discriminator=PatchDiscriminator(width=32))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = AdamW(model.parameter_groups(phase), fused=True)
    if not Trainer.start_or_resume(model, AutoencoderObjective(phase), optimizer, scenes, config).fit():
        raise SystemExit("stopped: the same command goes on")
    return DCAE.from_pretrained(f"{config.run_dir}/model", device=device)


def training_of(phases: Iterable[tuple[TrainingPhase, int]]) -> list[dict[str, Any]]:
    """What each phase trains, by which losses and for how many steps: for the report and the card."""
    always = ("L1", "multi-scale SSIM")  # `AutoencoderObjective` without LPIPS
    return [
        {
            "trains": phase.trains,
            "losses": [*always, "adversarial"] if phase.adversarial_weight else [*always],
            "steps": steps,
        }
        for phase, steps in phases
    ]


def run_config(name: str, steps: int, options: argparse.Namespace) -> TrainConfig:
    """The run of one phase."""
    return TrainConfig(
        run_dir=str(options.out / "autoencoder-runs" / name),
        steps=steps,
        warmup_steps=min(100, steps // 10),
        decay_steps=steps // 2,
        final_lr_factor=0.02,
        ema_decay=0.998,
        precision="bf16",
        compile=options.compile,
        checkpoint_every=options.checkpoint_every,
        log_every=20,
    )


def main() -> None:
    """Train the phases in order, or go on where they were; the result is DIR/autoencoder.

    With --start-from only the decoder is trained, then its head: latents stay what they were, for a transformer that
    was trained on them.
    """
    options = _options()
    source = FolderSprites(options.sprites) if options.sprites else FontSprites()
    pictures = render_scenes(options.pictures, source, processes=options.workers)
    scenes = RenderedScenes(pictures, batch_size=options.batch_size, device=options.device)
    held_out = to_tensor(render_scenes(HELD_OUT, source, seed=1, progress=False)).to(options.device)

    torch.manual_seed(0)
    start = options.start_from and DCAE.from_pretrained(options.start_from, dtype=torch.float32, device=options.device)
    compared = [copy.deepcopy(start)] if start else []
    measured = {"before": measure(start, held_out)} if start else {}
    autoencoder = start or DCAE(EMOJI_DCAE)
    for name, (phase, steps) in _phases(options).items():
        autoencoder = train(autoencoder, phase, scenes, run_config(name, steps, options), options.device)
        if phase.trains == "all":
            scale = scaling_factor(autoencoder, held_out)
            autoencoder.config = replace(autoencoder.config, scaling_factor=scale)
        measured[name] = measure(autoencoder, held_out)
        compared.append(autoencoder)

    autoencoder.save_pretrained(options.out / "autoencoder")
    side_by_side(compared, held_out[:12]).save(options.out / "autoencoder.png")
    last = measured[name]
    report = {"steps": options.steps, "batch_size": options.batch_size, "psnr_db": round(last["psnr"], 2)}
    told = {"training": training_of(_phases(options).values()), "phases": measured}
    (options.out / "autoencoder.json").write_text(json.dumps(report | told) + "\n")
    print(f"{report} on scenes not trained on; scaling factor {autoencoder.config.scaling_factor}")
    for name, numbers in measured.items():
        print(f"{name:>8}: PSNR {numbers['psnr']:.2f} dB, SSIM {numbers['ssim']:.4f}")


def _phases(options: argparse.Namespace) -> dict[str, tuple[TrainingPhase, int]]:
    first = replace(DECODER, latent_noise=options.latent_noise) if options.start_from else FULL
    chosen = {"decoder" if options.start_from else "full": (first, options.steps), "head": (HEAD, options.head_steps)}
    return {
        name: (replace(phase, lr=options.lr) if options.lr and name != "head" else phase, steps)
        for name, (phase, steps) in chosen.items()
        if steps
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.train_autoencoder", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=2800, help="of the first phase")
    parser.add_argument("--head-steps", type=int, default=600, help="of the second, with a discriminator; 0: none")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, help="of the first phase, instead of its own")
    parser.add_argument("--pictures", type=int, default=20_000, help="scenes to draw beforehand, 50 KB each")
    parser.add_argument("--start-from", type=Path, metavar="DIR", help="train only the decoder of this autoencoder")
    parser.add_argument(
        "--latent-noise", type=float, default=DECODER.latent_noise, help="with --start-from: see TrainingPhase"
    )
    parser.add_argument("--sprites", type=Path, metavar="DIR", help="pictures of the objects, instead of the font's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw scenes")
    parser.add_argument("--checkpoint-every", type=int, default=500)
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()

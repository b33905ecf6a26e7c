"""Train the emoji autoencoder: an f32c32 DC-AE narrow enough for two CPU cores (DC-AE, section 3)."""

import argparse
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from recipes.emoji.scenes import render, scene_at
from recipes.emoji.sprites import FontSprites, SpriteSheet
from sana_ae import DCAE, DCAEConfig
from sana_train import Draws, TrainConfig, Trainer

STAGES = 6
CHANNELS = (16, 32, 64, 128, 256, 256)

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


class SceneImages:
    """Rendered scenes as a pure function of the step: images (B, 3, 128, 128) in [-1, 1]."""

    def __init__(self, sprites: SpriteSheet, *, batch_size: int, seed: int = 0) -> None:
        self.sprites = sprites
        self.batch_size = batch_size
        self.seed = seed

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        indices = range(step * self.batch_size, (step + 1) * self.batch_size)
        scenes = [scene_at(index, self.sprites, seed=self.seed) for index in indices]
        images = np.stack([render(scene, self.sprites) for scene in scenes])
        return {"images": to_tensor(images), "key": [str(index) for index in indices]}


def to_tensor(images: "np.ndarray[Any, np.dtype[np.uint8]]") -> Tensor:
    """Pixels (B, H, W, 3) in 0..255 -> (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction(model: torch.nn.Module, batch: dict[str, Any], draws: Draws) -> Tensor:
    """Mean absolute plus mean squared error of the decoded image; nothing is random."""
    difference = model(batch["images"]).float() - batch["images"]
    return difference.abs().mean() + difference.square().mean()


def psnr(autoencoder: DCAE, images: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over (B, 3, H, W)."""
    with torch.inference_mode():
        error = (autoencoder(images).clamp(-1, 1) - images) / 2
    return float(-10 * error.square().mean().log10())


def scaling_factor(autoencoder: DCAE, batches: Iterable[dict[str, Any]]) -> float:
    """What makes the latents' standard deviation one."""
    with torch.inference_mode():
        latents = torch.cat([autoencoder.encode(batch["images"]) for batch in batches])
    return round(float(1 / latents.std()), 5)


def side_by_side(autoencoder: DCAE, images: Tensor) -> Image.Image:
    """Originals above their reconstructions."""
    with torch.inference_mode():
        decoded = autoencoder(images).clamp(-1, 1)
    rows = torch.cat([torch.cat(list(images), 2), torch.cat(list(decoded), 2)], 1)
    return Image.fromarray(((rows + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def main() -> None:
    """Train, or go on training; the result is DIR/autoencoder, with its latent scale measured."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.train_autoencoder", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches ahead")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = DCAE(EMOJI_DCAE).to(options.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    batches = SceneImages(SpriteSheet(FontSprites()), batch_size=options.batch_size)
    config = TrainConfig(
        run_dir=str(options.out / "autoencoder-run"),
        steps=options.steps,
        warmup_steps=min(100, options.steps // 10),
        decay_steps=options.steps // 2,
        final_lr_factor=0.02,
        ema_decay=0.995,
        precision="bf16",
        checkpoint_every=200,
        workers=options.workers,
        log_every=20,
    )
    Trainer.start_or_resume(model, reconstruction, optimizer, batches, config).fit()

    trained = DCAE.from_pretrained(config.run_dir + "/model")
    held_out = SceneImages(batches.sprites, batch_size=32, seed=1)
    scale = scaling_factor(trained, map(held_out, range(8)))
    trained.config = dataclasses.replace(trained.config, scaling_factor=scale)
    trained.save_pretrained(options.out / "autoencoder")
    images = held_out(8)["images"]
    side_by_side(trained, images[:12]).save(options.out / "autoencoder.png")
    report = {"steps": options.steps, "batch_size": options.batch_size, "psnr_db": round(psnr(trained, images), 2)}
    (options.out / "autoencoder.json").write_text(json.dumps(report) + "\n")
    print(f"{report} on scenes not trained on; scaling factor {scale}")


if __name__ == "__main__":
    main()

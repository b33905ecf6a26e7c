"""The models that are grown, small enough to be trained many times, and the scenes that they are trained on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from recipes.emoji.encode_scenes import FIRST_HELD_OUT, encode_shard
from recipes.emoji.epoch_order import EpochOrder
from recipes.emoji.sprites import FontSprites, SpriteSheet
from recipes.emoji.train_transformer import CaptionedTransformer
from sana import SanaPipeline
from sana_dit import SanaConfig, SanaTransformer

MAX_TOKENS = 12  # of an English caption; the longest has 9
WORDS = 640
HELD_OUT = 128


class CaptionedVelocity(nn.Module):
    """A transformer behind a table of words and places: `FlowMatching` gives it token ids for captions."""

    def __init__(self, *, depth: int, width: int) -> None:
        super().__init__()
        heads = {"num_attention_heads": width // 32, "num_cross_attention_heads": width // 32}
        config = SanaConfig(
            num_layers=depth, cross_attention_head_dim=32, caption_channels=width, sample_size=4, qk_norm=True, **heads
        )
        self.words = nn.Embedding(WORDS, width)
        self.places = nn.Parameter(torch.randn(MAX_TOKENS, width))
        self.transformer = SanaTransformer(config)

    def forward(self, latents: Tensor, timestep: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Velocity of latents (B, C, h, w) under captions given as token ids (B, L)."""
        velocity: Tensor = self.transformer(latents, timestep, self.words(tokens) + self.places, mask)
        return velocity


def embedded_model(depth: int | None = None) -> CaptionedTransformer:
    """The embedded transformer behind its text encoder, which stays as it is; given a depth, an untrained one."""
    pipeline = SanaPipeline.embedded()
    transformer = pipeline.transformer
    if depth is not None:
        transformer = SanaTransformer(dataclasses.replace(transformer.config, num_layers=depth))
    text_encoder = pipeline.caption_encoder.text_encoder.requires_grad_(False)
    return CaptionedTransformer(text_encoder, transformer).float()


def scenes_unseen_by_embedded() -> dict[str, Any]:
    """Scenes that the embedded model has never met: it was trained on all shards."""
    pipeline = SanaPipeline.embedded()
    indices = range(FIRST_HELD_OUT, FIRST_HELD_OUT + HELD_OUT)
    tokenizer = pipeline.caption_encoder.tokenizer
    scenes = encode_shard(pipeline.autoencoder, tokenizer, SpriteSheet(FontSprites()), indices)
    latents = scenes["latents"].float() * pipeline.autoencoder.config.scaling_factor
    return _batch(latents, scenes["tokens"][:, 0, :MAX_TOKENS], indices)


class Scenes:
    """Encoded scenes with English captions; a batch is a pure function of the step.

    Args:
        folder: shards of `encode_scenes`, all of them or a few; the first `HELD_OUT` scenes are in no batch.
        seed: of the order.
        batch_size: scenes of a batch.
        first_step: the step that sees the first batch.
    """

    def __init__(self, folder: Path, *, seed: int, batch_size: int, first_step: int = 0) -> None:
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise FileNotFoundError(f"no shards in {folder}: write them with python -m recipes.emoji.encode_scenes")
        parts = [_read(path) for path in paths]
        self.latents = torch.cat([latents for latents, _ in parts])
        self.tokens = torch.cat([tokens for _, tokens in parts])
        if len(self.latents) < HELD_OUT + batch_size:
            raise ValueError(f"{folder} has {len(self.latents)} scenes; give {HELD_OUT + batch_size} or more")
        self.order = EpochOrder(len(self.latents) - HELD_OUT, batch_size, seed=seed)
        self.first_step = first_step

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        picked = HELD_OUT + self.order(step - self.first_step)
        return _batch(self.latents[picked], self.tokens[picked], picked.tolist())

    def held_out(self) -> dict[str, Any]:
        """The scenes that no batch holds."""
        return _batch(self.latents[:HELD_OUT], self.tokens[:HELD_OUT], range(HELD_OUT))


def _batch(latents: Tensor, tokens: Tensor, scenes: Sequence[int]) -> dict[str, Any]:
    keys = [str(scene) for scene in scenes]
    return {"latents": latents.float(), "caption": tokens.long(), "caption_mask": tokens != 0, "key": keys}


def _read(path: Path) -> tuple[Tensor, Tensor]:
    with safe_open(path, framework="pt") as file:
        scale = float(file.metadata()["scaling_factor"])
        return file.get_tensor("latents").float() * scale, file.get_tensor("tokens")[:, 0, :MAX_TOKENS]

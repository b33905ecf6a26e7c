"""Turn scenes into what the transformer trains on: latents, and each caption's tokens in four languages."""

import argparse
import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import GemmaTokenizer

from recipes.emoji.captions import LANGUAGES, caption
from recipes.emoji.scenes import Scene, render, scene_at
from recipes.emoji.sprites import FontSprites, SpriteSheet
from recipes.emoji.tokenizer import train_tokenizer
from recipes.emoji.train_autoencoder import to_tensor
from sana_ae import DCAE

MAX_TOKENS = 32
SHARD = 2000
TOKENIZER_SCENES = 20_000
FIRST_HELD_OUT = 10_000_000  # scenes far beyond those that any run trains on


def tokenize(texts: list[str], tokenizer: GemmaTokenizer) -> Tensor:
    """Token ids (B, MAX_TOKENS), padded on the right."""
    ids = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
    return torch.tensor(ids, dtype=torch.int16)


def encode_shard(
    autoencoder: DCAE, tokenizer: GemmaTokenizer, sprites: SpriteSheet, indices: range
) -> dict[str, Tensor]:
    """The scenes of `indices`: unscaled latents (N, 32, 4, 4) in fp16 and token ids (N, 4 languages, MAX_TOKENS)."""
    scenes = [scene_at(index, sprites) for index in indices]
    images = to_tensor(np.stack([render(scene, sprites) for scene in scenes]))
    device = next(autoencoder.parameters()).device
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        chunks = [autoencoder.encode(chunk.to(device)).cpu() for chunk in images.split(50)]
    latents = torch.cat(chunks).half().contiguous()
    captions = [_captions(scene, index) for scene, index in zip(scenes, indices, strict=True)]
    return {"latents": latents, "tokens": torch.stack([tokenize(texts, tokenizer) for texts in captions])}


def _captions(scene: Scene, index: int) -> list[str]:
    return [caption(scene.content, language, random.Random(index)) for language in LANGUAGES]


def shard_facts(autoencoder: DCAE, tokenizer: GemmaTokenizer) -> dict[str, str]:
    """What a shard is valid for, as its metadata: the scaling factor, and hashes of the encoder and the vocabulary.

    The decoder may have been trained further.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(autoencoder.encoder.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    words = hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    return {
        "scaling_factor": str(autoencoder.config.scaling_factor),
        "encoder": digest.hexdigest()[:12],
        "vocabulary": words.hexdigest()[:12],
    }


def check_shard(path: Path, facts: Mapping[str, str]) -> None:
    """Raise ValueError where a shard is not one of `facts`; what it says nothing of is taken as it is."""
    with safe_open(path, framework="pt") as file:
        then = file.metadata() or {}
    if changed := [f"{name} {then[name]} -> {now}" for name, now in facts.items() if then.get(name, now) != now]:
        raise ValueError(
            f"{path} was written with another autoencoder or tokenizer ({', '.join(changed)}): remove {path.parent}, "
            "and encode anew"
        )


def load_shards(folder: Path, facts: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """All the scenes of a folder of shards, in order; `facts` are those of the models to use them with."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"no shards in {folder}: write them with python -m recipes.emoji.encode_scenes")
    for path in paths:
        check_shard(path, facts or {})
    shards = [load_file(path) for path in paths]
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def main() -> None:
    """Write DIR/tokenizer and DIR/latents/*.safetensors from DIR/autoencoder; shards that are there already stay."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.encode_scenes", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    sprites = SpriteSheet(FontSprites())
    tokenizer = train_tokenizer(scene_at(index, sprites).caption for index in range(TOKENIZER_SCENES))
    tokenizer.save_pretrained(options.out / "tokenizer")
    autoencoder = DCAE.from_pretrained(options.out / "autoencoder", device=options.device).eval()
    facts = shard_facts(autoencoder, tokenizer)
    folder = options.out / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    for start in tqdm(range(0, options.scenes, SHARD), unit="shard"):
        path = folder / f"{start // SHARD:05d}.safetensors"
        if path.exists():
            check_shard(path, facts)
            continue
        shard = encode_shard(autoencoder, tokenizer, sprites, range(start, start + SHARD))
        save_file(shard, path.with_suffix(".tmp"), metadata=facts)
        path.with_suffix(".tmp").replace(path)


if __name__ == "__main__":
    main()

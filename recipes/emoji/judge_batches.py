"""The emoji judge's data: samples with their pictures, and training batches made of them and of renders."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tqdm import tqdm

from recipes.emoji.captions import caption
from recipes.emoji.judge_model import PATCHES
from recipes.emoji.judge_samples import DECODED_BY, DRAWN_BY, Sample, decode, read_samples
from recipes.emoji.judge_scenes import Pictured, patch_targets, training_sample, training_scene
from recipes.emoji.run_folder import weights_hash
from recipes.emoji.sprites import SpriteSheet
from sana_ae import DCAE
from sana_judge import VILAConfig
from sana_judge.training import QuestionBatcher, is_held_back
from sana_judge.vila.tiling import cut_tiles

SAMPLE_SHARE = 0.3  # of a batch; the others are renders, of which there is no end
VALIDATION_SHARE = 0.2  # of the training prompts' samples: they calibrate


@dataclass(frozen=True, slots=True)
class SamplePictures:
    """Samples and their pictures (N, 128, 128, 3)."""

    samples: Sequence[Sample]
    pixels: npt.NDArray[np.uint8]

    @classmethod
    def read(cls, data: Path, split: str, autoencoder: DCAE, *, cache: Path) -> Self:
        """Decode the samples of `data`; the pictures are kept in `cache` for the next time."""
        shards = list(read_samples(data / "samples", split))
        samples = [sample for _, shard in shards for sample in shard]
        path = cache / f"{split}-{len(samples)}-{weights_hash(DRAWN_BY)}-{weights_hash(DECODED_BY)}.npy"
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            device = next(autoencoder.parameters()).device
            bar = tqdm(shards, desc=f"decoding {split} samples", unit="shard")
            pictures = [np.asarray(image) for latents, _ in bar for image in decode(autoencoder, latents.to(device))]
            np.save(path.with_suffix(".tmp.npy"), np.stack(pictures))
            path.with_suffix(".tmp.npy").replace(path)
        return cls(samples, np.load(path, mmap_mode="r"))

    def part(self, *, held_back: bool) -> Self:
        """The samples of the prompts that calibrate, or of all others."""
        places = [n for n, sample in enumerate(self.samples) if is_for_calibration(sample) == held_back]
        return type(self)([self.samples[place] for place in places], self.pixels[places])


def is_for_calibration(sample: Sample) -> bool:
    """Whether a sample is held back from training: all samples of a content are, or none."""
    return is_held_back(caption(sample.content, "english"), VALIDATION_SHARE, salt="emoji judge")


class JudgeBatches:
    """Batches of `QuestionBatcher` with the patches' names, as a pure function of the step.

    objects, colors (B, P * P): see `patch_targets`.
    """

    def __init__(
        self,
        sprites: SpriteSheet,
        samples: SamplePictures,
        batcher: QuestionBatcher,
        config: VILAConfig,
        *,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        self.sprites = sprites
        self.samples = samples
        self.batcher = batcher
        self.config = config
        self.batch_size = batch_size
        self.seed = seed

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        keys = [f"judge {self.seed} {step} {slot}" for slot in range(self.batch_size)]
        pictured = [self._picture(random.Random(key)) for key in keys]
        tiles = [cut_tiles(Image.fromarray(one.pixels), self.config, max_tiles=1) for one in pictured]
        batch = self.batcher(keys, tiles, [one.asked for one in pictured])
        targets = [patch_targets(one.found, PATCHES) for one in pictured]
        objects, colors = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*targets, strict=True))
        return batch | {"objects": objects, "colors": colors}

    def _picture(self, rng: random.Random) -> Pictured:
        if rng.random() >= SAMPLE_SHARE:
            return training_scene(rng, self.sprites)
        place = rng.randrange(len(self.samples.samples))
        return training_sample(rng, self.samples.pixels[place], self.samples.samples[place])

"""Images to pixels as CLIP, SigLIP and BLIP were trained to see them, by Pillow alone."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sana_judge.checkpoint_reading import read_json

_BICUBIC = int(Image.Resampling.BICUBIC)


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelReader:
    """How an image becomes a square.

    Attributes:
        size: Pixels per side.
        crop: Whether the shorter side becomes `size` and the middle is kept; else both sides are squeezed.
        resample: Pillow's number of the filter.
        mean, std: Of the channels, from 0 to 1.
    """

    size: int
    crop: bool
    resample: int = _BICUBIC
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def of(self, root: Path, *, size: int) -> Self:
        """Returns this with the size of a model, and what its preprocessor_config.json says of filter and channels."""
        fields = read_json(root / "preprocessor_config.json")
        return replace(
            self,
            size=size,
            resample=int(fields.get("resample", self.resample)),
            mean=tuple(fields.get("image_mean", self.mean)),
            std=tuple(fields.get("image_std", self.std)),
        )

    def __call__(self, images: list[Image.Image]) -> Tensor:
        """Returns RGB images as one batch (B, 3, size, size), float32."""
        squares = np.stack([np.asarray(self._square(image)) for image in images])  # (B, size, size, 3)
        x = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
        return (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]

    def _square(self, image: Image.Image) -> Image.Image:
        if not self.crop:
            return image.resize((self.size, self.size), self.resample)
        short = min(image.size)
        # The longer side is cut down to whole pixels, and a half pixel of margin rounded to even, as torchvision does.
        width, height = (self.size if side == short else self.size * side // short for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.resize((width, height), self.resample).crop((left, top, left + self.size, top + self.size))


OPENAI_CLIP = PixelReader(
    size=224,
    crop=True,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
SIGLIP = PixelReader(size=224, crop=False, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

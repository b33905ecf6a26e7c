"""The colours of objects as GenEval names them: CLIP's choice of ten, seeing the object alone on grey."""

from collections.abc import Sequence
from os import PathLike
from typing import Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, PreTrainedTokenizerBase

from sana_judge.checkpoint_reading import fingerprint
from sana_judge.geneval.rules import COLORS, Detection
from sana_judge.judge_call import not_finite
from sana_judge.scorers.clip_model import CHECKPOINT, image_features, text_features
from sana_judge.scorers.model_loading import find_model, load_model, load_tokenizer
from sana_judge.scorers.pixels import OPENAI_CLIP, PixelReader

BACKGROUND = "#999999"

_TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")


class CLIPColors:
    """Names one of `COLORS` for each object: that whose mean text direction is nearest to what CLIP sees.

    CLIP sees the pixels of the mask on grey, cut to the box; without a mask the box as it is. GenEval runs the same
    weights (OpenAI's ViT-L/14) in mixed half precision, so a close call may come out otherwise there.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        pixels: PixelReader,
        *,
        revision: str = "",
        batch_size: int = 16,
    ):
        """Takes what `from_pretrained` reads."""
        self.model = model
        self.revision = revision
        self.batch_size = batch_size
        self._tokenizer = tokenizer
        self._pixels = pixels
        self._directions: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(
        cls,
        repo_or_dir: str | PathLike[str] = CHECKPOINT,
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 16,
    ) -> Self:
        """Loads a CLIP model from the Hub or a folder; dtype None is the file's, device None the CPU.

        Raises:
            FileNotFoundError: There is no such model, or it has no weights: says what to fetch.
            ValueError: It is damaged, or not a CLIP model.
        """
        root = find_model(repo_or_dir, revision=revision, kinds=("clip",), example=CHECKPOINT)
        model = load_model(CLIPModel, root, dtype=dtype, device=device)
        pixels = OPENAI_CLIP.of(root, size=model.config.vision_config.image_size)
        return cls(
            model, load_tokenizer(root), pixels, revision=f"clip {fingerprint(root)} {dtype}", batch_size=batch_size
        )

    def __call__(self, image: Image.Image, detections: Sequence[Detection], /) -> list[str]:
        """Returns a colour per object of one RGB image.

        Raises ValueError where a mask is not of the image's size or a box holds no pixel, and FloatingPointError
        where the model gives NaN.
        """
        crops = [object_crop(image, detection) for detection in detections]
        named: list[str] = []
        for start in range(0, len(crops), self.batch_size):
            batch = detections[start : start + self.batch_size]
            seen = self._seen(crops[start : start + self.batch_size])  # (B, D)
            directions = torch.stack([self._colors_of(detection.name) for detection in batch])  # (B, colours, D)
            likeness = torch.einsum("bd,bcd->bc", seen, directions)
            if not likeness.isfinite().all():
                raise not_finite("the likeness to the colours", likeness.tolist())
            named += [COLORS[index] for index in likeness.argmax(1).tolist()]
        return named

    @torch.inference_mode()
    def _seen(self, crops: list[Image.Image]) -> Tensor:
        return F.normalize(image_features(self.model, self._pixels(crops)), dim=-1)

    @torch.inference_mode()
    def _colors_of(self, name: str) -> Tensor:
        """The directions (colours, D) of a class: the mean of its three sentences' unit vectors, made a unit again."""
        if name not in self._directions:
            sentences = [template.format(color=color, name=name) for color in COLORS for template in _TEMPLATES]
            tokens = self._tokenizer(sentences, padding=True, return_tensors="pt")
            read = F.normalize(text_features(self.model, tokens), dim=-1)
            means = read.view(len(COLORS), len(_TEMPLATES), -1).mean(1)  # (colours, D)
            self._directions[name] = F.normalize(means, dim=-1)
        return self._directions[name]


def object_crop(image: Image.Image, detection: Detection) -> Image.Image:
    """What CLIP is shown of an object. Raises ValueError where mask and image, or box and image, do not fit."""
    if detection.mask is not None:
        if detection.mask.shape != (image.height, image.width):
            raise ValueError(
                f"the mask of a {detection.name} is {detection.mask.shape}, its image {(image.height, image.width)}: "
                "give masks in the pixels of the image"
            )
        blank = Image.new("RGB", image.size, BACKGROUND)
        image = Image.composite(image, blank, Image.fromarray(detection.mask))
    left, top, right, bottom = map(round, detection.box)
    if right <= left or bottom <= top:
        raise ValueError(
            f"the box {detection.box} of a {detection.name} does not hold a pixel: give x0 < x1 and y0 < y1"
        )
    return image.crop((left, top, right, bottom))

"""CLIP score and FID by the packages whose numbers papers quote; each function is named after its implementation.

The same images give other numbers in other implementations, above all because of how they are resized: say which
function and which `resize` a number is from. Needs the extra `metrics`.
"""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from sana_judge.image_reading import ImageLike, read_image
from sana_judge.judge_call import pair_prompts, read_batches
from sana_judge.scorers.clip_model import CHECKPOINT, image_features, text_features
from sana_judge.scorers.model_loading import find_model, load_model, load_tokenizer
from sana_judge.scorers.pixels import OPENAI_CLIP, PixelReader

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

_REMEDY = "pip install 'sana-judge[metrics]'"


def torchmetrics_clip_score(
    prompt: str | Sequence[str],
    images: Sequence[ImageLike],
    *,
    repo_or_dir: str | PathLike[str] = CHECKPOINT,
    revision: str | None = None,
    resize: Literal["clip"] = "clip",
    batch_size: int = 32,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> float:
    """Returns torchmetrics' CLIPScore of images and their prompts: the mean of 100 cos, at least 0.

    `resize="clip"` is the only policy: the shorter side to 224 pixels by Pillow's antialiased bicubic, and the middle
    square. A prompt's first 77 tokens count.

    Raises:
        FileNotFoundError, ValueError: The CLIP model is missing or incomplete, or images and prompts do not pair.
        ImportError: torchmetrics is missing.
    """
    try:
        from torchmetrics.multimodal import CLIPScore
    except ImportError as error:
        raise ImportError(f"torchmetrics_clip_score needs torchmetrics: {_REMEDY}") from error
    from transformers import CLIPModel

    _check_choice("resize", resize, ("clip",))
    prompts = pair_prompts(prompt, images)
    if not prompts:
        raise ValueError("no images: a score needs at least one")
    root = find_model(repo_or_dir, revision=revision, kinds=("clip",), example=CHECKPOINT)
    model = load_model(CLIPModel, root, dtype=None, device=device)
    pixels = OPENAI_CLIP.of(root, size=model.config.vision_config.image_size)
    length = model.config.text_config.max_position_embeddings
    metric = CLIPScore(lambda: (_Features(model), _Processor(load_tokenizer(root), pixels, length=length)))
    for places, batch in read_batches(images, batch_size, name="CLIP score", progress=progress):
        metric.update([_bytes(image) for image in batch], [prompts[place] for place in places])
    return float(metric.compute())


def torchmetrics_fid(
    generated: Sequence[ImageLike],
    real: Sequence[ImageLike],
    *,
    resize: Literal["bilinear-antialias", "tensorflow-bilinear"] = "bilinear-antialias",
    features: nn.Module | None = None,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> float:
    """Returns torchmetrics' Fréchet inception distance between two sets of images, lower is better.

    Args:
        generated: Images of the model; no fewer than two, and thousands for a number to quote.
        real: What they are compared with.
        resize: How its Inception-v3 (torch-fidelity's weights, downloaded on first use) makes 299 x 299 pixels:
            "bilinear-antialias", torchmetrics' own default, or "tensorflow-bilinear", without antialiasing, as the
            original FID and torch-fidelity.
        features: A module that maps bytes (B, 3, H, W) to features (B, D) instead; it resizes as it likes.
        batch_size: Images per forward; only images of one size share one.
        device: Where features are computed; None is the CPU.
        progress: Whether to show a bar.

    Raises:
        ImportError: torchmetrics, or for its own Inception torch-fidelity, is missing.
        ValueError: There are fewer than two images in a set.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise ImportError(f"torchmetrics_fid needs torchmetrics: {_REMEDY}") from error
    _check_choice("resize", resize, ("bilinear-antialias", "tensorflow-bilinear"))
    for name, images in (("generated", generated), ("real", real)):
        if len(images) < 2:
            raise ValueError(f"{name} holds {len(images)} images; a distance needs at least two, better thousands")
    try:
        metric = FrechetInceptionDistance(
            feature=2048 if features is None else features, antialias=resize == "bilinear-antialias"
        )
    except ModuleNotFoundError as error:
        raise ImportError(f"torchmetrics_fid without features= needs torch-fidelity: {_REMEDY}") from error
    metric = metric.to(device or "cpu")
    with tqdm(total=len(generated) + len(real), desc="FID", unit="image", delay=1, disable=not progress) as bar:
        for images, is_real in ((generated, False), (real, True)):
            for batch in _same_sizes(images, batch_size):
                metric.update(torch.stack(batch).to(device or "cpu"), real=is_real)
                bar.update(len(batch))
    return float(metric.compute())


def clean_fid(
    generated: str | PathLike[str],
    real: str | PathLike[str],
    *,
    resize: Literal["clean", "legacy_pytorch", "legacy_tensorflow"] = "clean",
    features: Any = None,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> float:
    """Returns clean-fid's Fréchet inception distance between the images of two folders, lower is better.

    Args:
        generated: The folder of the model's images, searched with its subfolders.
        real: The folder they are compared with.
        resize: How 299 x 299 pixels are made: "clean", Pillow's antialiased bicubic on each channel in float,
            "legacy_pytorch", PyTorch's bilinear without antialiasing, or "legacy_tensorflow", inside the network.
        features: What maps (B, 3, 299, 299) to features instead of its Inception-v3, downloaded on first use.
        batch_size: Images per forward.
        device: Where features are computed; None is the CPU.
        progress: Whether to show a bar.

    Raises ImportError where clean-fid is missing, or torchvision does not fit torch.
    """
    try:
        from cleanfid import fid
    except (ImportError, RuntimeError) as error:  # torchvision for another torch raises RuntimeError
        raise ImportError(
            f"clean_fid needs clean-fid, and a torchvision that fits torch ({error}): {_REMEDY}"
        ) from error
    _check_choice("resize", resize, ("clean", "legacy_pytorch", "legacy_tensorflow"))
    distance = fid.compute_fid(
        str(generated),
        str(real),
        mode=resize,
        custom_feat_extractor=features,
        batch_size=batch_size,
        device=torch.device(device or "cpu"),
        num_workers=0,
        verbose=progress,
    )
    return float(distance)


class _Features(nn.Module):
    """What torchmetrics calls of a CLIP model, whose own methods return other things in other transformers."""

    def __init__(self, model: "CLIPModel"):
        super().__init__()
        self.model = model
        self.config = model.config

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        return image_features(self.model, pixel_values).cpu()  # (B, D)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return text_features(self.model, {"input_ids": input_ids, "attention_mask": attention_mask}).cpu()  # (B, D)


class _Processor:
    """What torchmetrics calls of a CLIP processor, without torchvision."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", pixels: PixelReader, *, length: int):
        self.tokenizer = tokenizer
        self.pixels = pixels
        self.length = length

    def __call__(
        self, *, text: list[str] | None = None, images: list[Tensor] | None = None, **options: object
    ) -> dict[str, Tensor]:
        if images is not None:
            return {"pixel_values": self.pixels([Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images])}
        tokens = self.tokenizer(text, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def _same_sizes(images: Sequence[ImageLike], batch_size: int) -> Iterator[list[Tensor]]:
    """Batches of neighbours of one size, as bytes (3, H, W) each."""
    batch: list[Tensor] = []
    for image in images:
        x = _bytes(read_image(image))
        if batch and (len(batch) == batch_size or batch[0].shape != x.shape):
            yield batch
            batch = []
        batch.append(x)
    yield batch


def _bytes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")

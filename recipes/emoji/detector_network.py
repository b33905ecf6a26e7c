"""A small convolutional detector: every cell of an 8x8 grid says which object is centred there, its colour and box."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipes.emoji.vocabulary import COLORS, THINGS
from sana_judge import Detection

SIZE = 128
CELL = 16
GRID = SIZE // CELL

# Boxes that overlap more than this are one object seen by neighbouring cells: objects do not overlap in this world.
MAX_IOU = 0.4
# Fainter answers are not reported at all; whoever judges applies a higher threshold.
MIN_SCORE = 0.1

_NAMES, _COLORS = tuple(THINGS), tuple(COLORS)


class DetectorNetwork(nn.Module):
    """Images (B, 3, 128, 128) in [-1, 1] -> class logits (B, 25, 8, 8), colour logits (B, 8, 8, 8), boxes (B, 4, 8, 8).

    The last class is "nothing". Boxes run from the cell's centre to the left, upper, right and lower edge, in cells.
    """

    def __init__(self, widths: tuple[int, int, int] = (32, 96, 160)) -> None:
        super().__init__()
        self.stem = _convolve(3, widths[0], stride=2)
        self.fine = nn.Sequential(_convolve(widths[0], widths[0], stride=2), _Residual(widths[0]))
        self.middle = nn.Sequential(_convolve(widths[0], widths[1], stride=2), *_residuals(widths[1], 2))
        self.coarse = nn.Sequential(_convolve(widths[1], widths[2], stride=2), *_residuals(widths[2], 2))
        self.head = nn.Conv2d(widths[2], len(_NAMES) + 1 + len(_COLORS) + 4, 1)
        # Channels last from the start: convolutions on a CPU are several times faster in it.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Say what is centred in each cell."""
        x = self.stem(images)  # (B, 32, 64, 64)
        x = self.fine(x)  # (B, 32, 32, 32)
        x = self.middle(x)  # (B, 96, 16, 16)
        x = self.coarse(x)  # (B, 160, 8, 8)
        x = self.head(x)  # (B, 37, 8, 8)
        classes, colors, boxes = x.split([len(_NAMES) + 1, len(_COLORS), 4], dim=1)
        return classes, colors, boxes

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load the `detector.safetensors` of a folder."""
        network = cls()
        network.load_state_dict(load_file(Path(folder) / "detector.safetensors"))
        return network

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `detector.safetensors` into `folder`, whole or not at all."""
        path = Path(folder) / "detector.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolve(width, width), _convolve(width, width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y


def _residuals(width: int, count: int) -> list[nn.Module]:
    return [_Residual(width) for _ in range(count)]


def _convolve(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def to_input(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """Bytes (B, 128, 128, 3) -> (B, 3, 128, 128) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


class Detector:
    """A trained network as a function: 128x128 pictures -> the objects in each, most certain first."""

    def __init__(self, network: DetectorNetwork) -> None:
        self.network = network.eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The detector in a folder that training wrote."""
        return cls(DetectorNetwork.from_pretrained(folder))

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Find the objects of each image. Raises ValueError for an image that is not 128x128."""
        if wrong := {image.size for image in images if image.size != (SIZE, SIZE)}:
            raise ValueError(f"images of {sorted(wrong)}: the detector knows {SIZE}x{SIZE}; resize them")
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
        classes, colors, boxes = self.network(to_input(pixels))
        scores, names = classes.softmax(dim=1)[:, :-1].max(dim=1)  # (B, 8, 8)
        corners = boxes * CELL + _cell_centers()  # (B, 4, 8, 8)
        return [_decode(*cells) for cells in zip(scores, names, colors.argmax(dim=1), corners, strict=True)]


def _cell_centers() -> Tensor:
    """(4, 8, 8): x, y, x, y of every cell's centre in pixels."""
    y, x = torch.meshgrid(*[(torch.arange(GRID) + 0.5) * CELL] * 2, indexing="ij")
    return torch.stack([x, y, x, y])


def _decode(scores: Tensor, names: Tensor, colors: Tensor, corners: Tensor) -> list[Detection]:
    """The answers of one image's cells, best first, without those that a better one already covers."""
    found: list[Detection] = []
    for cell in scores.flatten().argsort(descending=True, stable=True).tolist():
        row, column = divmod(cell, GRID)
        if scores[row, column] < MIN_SCORE:
            break
        x0, y0, x1, y1 = corners[:, row, column].clamp(0, SIZE).tolist()
        if all(iou((x0, y0, x1, y1), better.box) <= MAX_IOU for better in found):
            name, color = _NAMES[names[row, column]], _COLORS[colors[row, column]]
            score = scores[row, column].item()
            found.append(Detection(name=name, score=score, box=(x0, y0, x1, y1), color=color))
    return found


def iou(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    shared = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    return shared / (areas - shared) if areas > shared else 0.0

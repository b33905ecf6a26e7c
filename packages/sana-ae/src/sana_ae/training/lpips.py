"""LPIPS, a learned perceptual distance: weighed differences of VGG16's features (Zhang et al. 2018)."""

from os import PathLike
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sana_ae.training.network_weights import check_network, read_network

# The convolutions of each of VGG16's five slices, by their number among torchvision's `features`; a slice ends with a
# ReLU, whose output is compared, and a pooling that halves the resolution.
SLICES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)
# Of images in [-1, 1]: ImageNet's means and deviations, as LPIPS rounds them.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """The distance of version 0.1 on VGG16; its weights are constants.

    Weights come from the files that torchvision and the authors of LPIPS publish: see `from_files`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slices = nn.ModuleList()
        before = 3
        for numbers, width in zip(SLICES, WIDTHS, strict=True):
            widths = [before, *[width] * len(numbers)]
            self.slices.append(nn.ModuleList(nn.Conv2d(a, width, 3, padding=1) for a in widths[:-1]))
            before = width
        self.heads = nn.ParameterList(torch.zeros(width) for width in WIDTHS)
        self.requires_grad_(False)

    @classmethod
    def from_files(cls, *, vgg16: str | PathLike[str], heads: str | PathLike[str]) -> Self:
        """Read torchvision's VGG16 (vgg16-397923af.pth) and the heads of LPIPS v0.1 (vgg.pth).

        Either may be .safetensors; others are read with weights_only=True. The classifier of VGG16 is passed over.
        Raises FileNotFoundError, or ValueError where a file is damaged or lacks a tensor of the right shape.
        """
        remedy = "download VGG16 from torchvision and the heads from LPIPS v0.1"
        vgg, lines = (read_network(Path(path), remedy=remedy) for path in (vgg16, heads))
        vgg = {name: tensor for name, tensor in vgg.items() if not name.startswith("classifier.")}
        check_network(vgg, _vgg16_shapes(), Path(vgg16))
        check_network(lines, _head_shapes(), Path(heads))
        model = cls()
        for number, (numbers, convolutions) in enumerate(zip(SLICES, model.slices, strict=True)):
            for place, convolution in zip(numbers, convolutions.children(), strict=True):
                weights = {name: vgg[f"features.{place}.{name}"] for name in ("weight", "bias")}
                convolution.load_state_dict(weights)
            model.heads[number].copy_(lines[f"lin{number}.model.1.weight"].flatten())
        return model.eval()

    def forward(self, decoded: Tensor, images: Tensor) -> Tensor:
        """The distance of images (B, 3, H, W) in [-1, 1], at least 16 pixels a side: (B,)."""
        if decoded.shape != images.shape or min(images.shape[2:]) < 16:
            raise ValueError(
                f"images are {tuple(decoded.shape)} and {tuple(images.shape)}: give equal shapes of at least 16 pixels "
                "a side, which VGG16 halves four times"
            )
        shift, scale = (torch.tensor(value, device=images.device).view(3, 1, 1) for value in (SHIFT, SCALE))
        x = (torch.cat([decoded, images]) - shift) / scale  # (2B, 3, H, W)
        distance = torch.zeros(len(images), device=images.device)
        for number, convolutions in enumerate(self.slices):
            x = F.max_pool2d(x, 2) if number else x
            for convolution in convolutions.children():
                x = F.relu(convolution(x))
            a, b = _unit(x).chunk(2)  # (B, Ci, H/2^i, W/2^i)
            difference = (a - b).square().mean(dim=(2, 3))
            distance = distance + difference @ self.heads[number]
        return distance


def _unit(features: Tensor) -> Tensor:
    """Features of unit length at each pixel, in fp32; those of zero stay zero."""
    features = features.float()
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (length + 1e-10)


def _vgg16_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    before = 3
    for numbers, width in zip(SLICES, WIDTHS, strict=True):
        for place in numbers:
            shapes[f"features.{place}.weight"] = (width, before, 3, 3)
            shapes[f"features.{place}.bias"] = (width,)
            before = width
    return shapes


def _head_shapes() -> dict[str, tuple[int, ...]]:
    return {f"lin{number}.model.1.weight": (1, width, 1, 1) for number, width in enumerate(WIDTHS)}

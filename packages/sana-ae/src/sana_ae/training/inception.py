"""Inception-v3 as FID is defined with it: TensorFlow's graph of 2015-12-05 to its last pooling (Heusel et al. 2017)."""

import re
from os import PathLike
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sana_ae.training.metrics import as_pixels
from sana_ae.training.network_weights import check_network, read_network

SIDE = 299
LOGITS = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}  # of torchvision's network, which is another, there are 1000

Kernel = int | tuple[int, int]


class InceptionV3(nn.Module):
    """Features of images whose Fréchet distance is FID; its weights are constants.

    It differs from torchvision's network in its weights, in averages that leave the padding out, and in the last block,
    which pools by the maximum. FID falls as images are added, and up to 2048 of them the covariance of the 2048
    features is singular: the distance is finite from two images on, but to be compared only with one of as many.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _halving(3, 32)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3, padding="valid")
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3, padding="valid")
        self.Mixed_5b = _at_35(192, pooled=32)
        self.Mixed_5c = _at_35(256, pooled=64)
        self.Mixed_5d = _at_35(288, pooled=64)
        self.Mixed_6a = _from_35_to_17()
        self.Mixed_6b = _at_17(128)
        self.Mixed_6c = _at_17(160)
        self.Mixed_6d = _at_17(160)
        self.Mixed_6e = _at_17(192)
        self.Mixed_7a = _from_17_to_8()
        self.Mixed_7b = _at_8(1280, _average())
        self.Mixed_7c = _at_8(2048, nn.MaxPool2d(3, stride=1, padding=1))
        self.requires_grad_(False)

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Self:
        """Read the weights that pytorch-fid and torch-fidelity publish, each as ...inception-2015-12-05-6726825d.pth.

        It may be a .safetensors of the same names; others are read with weights_only=True. The logits are passed over.
        Raises FileNotFoundError, or ValueError where the file is damaged or holds another network.
        """
        with torch.device("meta"):  # no random weights, only to replace them
            model = cls()
        wanted = {name: tensor for name, tensor in model.state_dict().items() if tensor.dim()}
        shapes = {pytorch_fid_name(name): tuple(tensor.shape) for name, tensor in wanted.items()}
        given = read_network(Path(path), remedy="download pt_inception-2015-12-05-6726825d.pth from pytorch-fid")
        given = {name: tensor for name, tensor in given.items() if not name.endswith(".num_batches_tracked")}
        check_network(given, shapes | {name: shape for name, shape in LOGITS.items() if name in given}, Path(path))
        # Copied: a file may be mapped, not read.
        weights = {name: given[pytorch_fid_name(name)].to(torch.float32, copy=True) for name in wanted}
        model.load_state_dict(weights, assign=True)
        return model.eval()

    def forward(self, images: Tensor) -> Tensor:
        """The features of images (B, 3, H, W) in [-1, 1], which are seen as 8-bit pixels: (B, 2048)."""
        x = (resize_as_tensorflow(as_pixels(images), SIDE) - 128) / 128  # (B, 3, 299, 299)
        x = self.Conv2d_1a_3x3(x)  # (B, 32, 149, 149)
        x = self.Conv2d_2a_3x3(x)  # (B, 32, 147, 147)
        x = self.Conv2d_2b_3x3(x)  # (B, 64, 147, 147)
        x = F.max_pool2d(x, 3, stride=2)  # (B, 64, 73, 73)
        x = self.Conv2d_3b_1x1(x)  # (B, 80, 73, 73)
        x = self.Conv2d_4a_3x3(x)  # (B, 192, 71, 71)
        x = F.max_pool2d(x, 3, stride=2)  # (B, 192, 35, 35)
        x = self.Mixed_5b(x)  # (B, 256, 35, 35)
        x = self.Mixed_5c(x)  # (B, 288, 35, 35)
        x = self.Mixed_5d(x)  # (B, 288, 35, 35)
        x = self.Mixed_6a(x)  # (B, 768, 17, 17)
        x = self.Mixed_6b(x)  # (B, 768, 17, 17)
        x = self.Mixed_6c(x)  # (B, 768, 17, 17)
        x = self.Mixed_6d(x)  # (B, 768, 17, 17)
        x = self.Mixed_6e(x)  # (B, 768, 17, 17)
        x = self.Mixed_7a(x)  # (B, 1280, 8, 8)
        x = self.Mixed_7b(x)  # (B, 2048, 8, 8)
        x = self.Mixed_7c(x)  # (B, 2048, 8, 8)
        features: Tensor = x.mean(dim=(2, 3))
        return features


def resize_as_tensorflow(images: Tensor, side: int) -> Tensor:
    """Bilinear as in TensorFlow 1: place i of `side` lies at i * size / side, with no half pixels and no smoothing.

    So do the authors of FID and torch-fidelity; pytorch-fid resizes with half pixels, which moves features by percents.
    """
    for dim in (3, 2):
        size = images.shape[dim]
        place = torch.arange(side, dtype=torch.float32, device=images.device) * (size / side)
        before = place.long()
        after = (before + 1).clamp(max=size - 1)
        share = (place - before).view((1, -1) if dim == 3 else (-1, 1))
        a, b = (images.index_select(dim, index) for index in (before, after))
        images = a + (b - a) * share
    return images


def pytorch_fid_name(name: str) -> str:
    """The name of a tensor in the file: branch3x3_2a.conv.weight is that of our branch3x3.1.a.conv.weight."""
    name = name.replace("branch_pool.1.", "branch_pool.")
    return re.sub(r"\.(\d)\.(?:([ab])\.)?", lambda found: f"_{int(found[1]) + 1}{found[2] or ''}.", name)


class _Convolution(nn.Module):
    """A convolution, its batch norm and a ReLU."""

    def __init__(self, channels: int, width: int, kernel: Kernel, *, stride: int = 1, padding: str = "same") -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Branches(nn.ModuleDict):
    """Modules that see the same input; their channels stand one behind another."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.values()], dim=1)


def _at_35(channels: int, *, pooled: int) -> _Branches:
    return _Branches(
        {
            "branch1x1": _Convolution(channels, 64, 1),
            "branch5x5": _chain(channels, (48, 1), (64, 5)),
            "branch3x3dbl": _chain(channels, (64, 1), (96, 3), (96, 3)),
            "branch_pool": nn.Sequential(_average(), _Convolution(channels, pooled, 1)),
        }
    )


def _from_35_to_17() -> _Branches:
    return _Branches(
        {
            "branch3x3": _halving(288, 384),
            "branch3x3dbl": _chain(288, (64, 1), (96, 3)).append(_halving(96, 96)),
            "branch_pool": nn.MaxPool2d(3, stride=2),
        }
    )


def _at_17(width: int) -> _Branches:
    across, down = (1, 7), (7, 1)
    return _Branches(
        {
            "branch1x1": _Convolution(768, 192, 1),
            "branch7x7": _chain(768, (width, 1), (width, across), (192, down)),
            "branch7x7dbl": _chain(768, (width, 1), (width, down), (width, across), (width, down), (192, across)),
            "branch_pool": nn.Sequential(_average(), _Convolution(768, 192, 1)),
        }
    )


def _from_17_to_8() -> _Branches:
    return _Branches(
        {
            "branch3x3": _chain(768, (192, 1)).append(_halving(192, 320)),
            "branch7x7x3": _chain(768, (192, 1), (192, (1, 7)), (192, (7, 1))).append(_halving(192, 192)),
            "branch_pool": nn.MaxPool2d(3, stride=2),
        }
    )


def _at_8(channels: int, pool: nn.Module) -> _Branches:
    def cross() -> _Branches:
        return _Branches({"a": _Convolution(384, 384, (1, 3)), "b": _Convolution(384, 384, (3, 1))})

    return _Branches(
        {
            "branch1x1": _Convolution(channels, 320, 1),
            "branch3x3": _chain(channels, (384, 1)).append(cross()),
            "branch3x3dbl": _chain(channels, (448, 1), (384, 3)).append(cross()),
            "branch_pool": nn.Sequential(pool, _Convolution(channels, 192, 1)),
        }
    )


def _chain(channels: int, *steps: tuple[int, Kernel]) -> nn.Sequential:
    chain = nn.Sequential()
    for width, kernel in steps:
        chain.append(_Convolution(channels, width, kernel))
        channels = width
    return chain


def _halving(channels: int, width: int) -> _Convolution:
    return _Convolution(channels, width, 3, stride=2, padding="valid")


def _average() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)

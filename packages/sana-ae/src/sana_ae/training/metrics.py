"""How close reconstructions are: PSNR, SSIM, a perceptual distance and rFID, on 8-bit pixels (DC-AE, table 2)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sana_ae.training.objective import Perceptual, as_images
from sana_ae.training.ssim import ssim

Features = Callable[[Tensor], Tensor]


def as_pixels(images: Tensor) -> Tensor:
    """Images in [-1, 1], clipped and rounded -> whole numbers 0 to 255 in fp32, as in a file."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255)


def reconstruction_metrics(
    reconstruct: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    batch_size: int = 16,
    perceptual: Perceptual | None = None,
    features: Features | None = None,
) -> dict[str, float]:
    """Compare images (N, 3, H, W), in [-1, 1] or bytes, with what `reconstruct` makes of them.

    Gives "psnr" in dB, of the error over all images, and "ssim"; "lpips" where there is a `perceptual` distance;
    "rfid" where there are `features`, a function of images in [-1, 1] that gives (B, D), such as `InceptionV3`; it
    decreases with the number of images, so compare only values computed on equally many. Where a reconstruction is not
    finite all are NaN.
    Everything is measured in fp32 on the device of the images.

    Raises ValueError where a reconstruction has another shape than its images.
    """
    if not len(images):
        raise ValueError("there are no images to reconstruct: give at least one")
    frechet = FrechetDistance()
    squares, similarity, distance = 0.0, 0.0, 0.0
    for chunk in torch.split(images, batch_size):
        originals = as_images(chunk)
        decoded = reconstruct(originals)
        if decoded.shape != originals.shape:
            raise ValueError(
                f"images {tuple(originals.shape)} were reconstructed as {tuple(decoded.shape)}: give images of a size "
                "that the autoencoder gives back"
            )
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            wanted, given = as_pixels(originals), as_pixels(decoded)
            # To the CPU before fp64, which not every accelerator has. As bytes, NaN would be black.
            finite = 1.0 if decoded.isfinite().all() else math.nan
            squares += finite * float((wanted - given).square().mean(dim=(1, 2, 3)).cpu().double().sum())
            similarity += finite * float(ssim(given, wanted, data_range=255).cpu().double().sum())
            a, b = as_images(given.byte()), as_images(wanted.byte())
            if perceptual is not None:
                distance += finite * float(perceptual(a, b).cpu().double().sum())
            if features is not None:
                frechet.update(decoded=finite * features(a), images=features(b))
    count = len(images)
    measured = {"psnr": psnr(squares / count), "ssim": similarity / count}
    if perceptual is not None:
        measured["lpips"] = distance / count
    return measured | ({"rfid": frechet.compute()} if features is not None else {})


def psnr(mean_square: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error between 8-bit pixels; infinite for none."""
    return 10 * math.log10(255.0**2 / mean_square) if mean_square else math.inf


class FrechetDistance:
    """Distance of Gaussians fitted to the features of two sets of images (FID; rFID of reconstructions)."""

    def __init__(self) -> None:
        self._sets = {"decoded": _Moments(), "images": _Moments()}

    def update(self, *, decoded: Tensor, images: Tensor) -> None:
        """Take in features (B, D) of either set."""
        self._sets["decoded"].update(decoded)
        self._sets["images"].update(images)

    def compute(self) -> float:
        """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)); NaN of features that are. Raises ValueError below two images."""
        (mean_a, root_a), (mean_b, root_b) = (moments.compute() for moments in self._sets.values())
        if not all(x.isfinite().all() for x in (mean_a, root_a, mean_b, root_b)):
            return math.nan
        # S1 S2 = A'A B'B has the eigenvalues of (A B')(A B')', whose roots are the singular values of A B'.
        cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
        distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross
        return float(distance.clamp(min=0))  # equal sets come out within rounding of 0, on either side


class _Moments:
    """Mean m and covariance A'A of features (n, D), in fp64 and without keeping more than 2 D of them.

    The triangle R of [1 X] = QR, (n, 1 + D), has sqrt(n) [1 m] in its first row, and sqrt(n - 1) A below it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.rows: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        self.rows.append(F.pad(features.cpu().double(), (1, 0), value=1.0))
        self.count += len(features)
        if sum(map(len, self.rows)) > 2 * self.rows[-1].shape[1]:
            self.rows = [self._triangle()]

    def compute(self) -> tuple[Tensor, Tensor]:
        if self.count < 2:
            raise ValueError(f"the Fréchet distance of {self.count} image(s) was asked for; it needs at least two")
        triangle = self._triangle()
        return triangle[0, 1:] / triangle[0, 0], triangle[1:, 1:] / math.sqrt(self.count - 1)

    def _triangle(self) -> Tensor:
        triangle: Tensor = torch.linalg.qr(torch.cat(self.rows), mode="r").R
        return triangle

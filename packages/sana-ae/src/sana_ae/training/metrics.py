"""How close reconstructions are: PSNR, SSIM, a perceptual distance and rFID, on 8-bit pixels (DC-AE, table 2)."""

from collections.abc import Callable

import torch
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
    "rfid" where there are `features`, a function of images in [-1, 1] that gives (B, D), such as Inception's pools.
    Everything is measured in fp32 on the device of the images.
    """
    if not len(images):
        raise ValueError("there are no images to reconstruct: give at least one")
    frechet = FrechetDistance()
    squares, similarity, distance = 0.0, 0.0, 0.0
    for chunk in torch.split(images, batch_size):
        originals = as_images(chunk)
        decoded = reconstruct(originals)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            wanted, given = as_pixels(originals), as_pixels(decoded)
            squares += float((wanted - given).square().mean(dim=(1, 2, 3)).double().sum())
            similarity += float(ssim(given, wanted, data_range=255).double().sum())
            a, b = as_images(given.byte()), as_images(wanted.byte())
            if perceptual is not None:
                distance += float(perceptual(a, b).double().sum())
            if features is not None:
                frechet.update(decoded=features(a), images=features(b))
    count = len(images)
    measured = {"psnr": psnr(squares / count), "ssim": similarity / count}
    if perceptual is not None:
        measured["lpips"] = distance / count
    return measured | ({"rfid": frechet.compute()} if features is not None else {})


def psnr(mean_square: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error between 8-bit pixels; infinite for none."""
    return float(10 * torch.log10(torch.tensor(255.0**2 / mean_square))) if mean_square else float("inf")


class FrechetDistance:
    """Distance of Gaussians fitted to the features of two sets of images (FID; rFID of reconstructions)."""

    def __init__(self) -> None:
        self._sets = {"decoded": _Moments(), "images": _Moments()}

    def update(self, *, decoded: Tensor, images: Tensor) -> None:
        """Take in features (B, D) of either set."""
        self._sets["decoded"].update(decoded)
        self._sets["images"].update(images)

    def compute(self) -> float:
        """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). Raises ValueError below two images."""
        (mean_a, covariance_a), (mean_b, covariance_b) = (moments.compute() for moments in self._sets.values())
        # S1 S2 has the eigenvalues of the symmetric R' S2 R, where S1 = R R'.
        values, vectors = torch.linalg.eigh(covariance_a)
        root = vectors * values.clamp(min=0).sqrt()
        cross = torch.linalg.eigvalsh(root.T @ covariance_b @ root).clamp(min=0).sqrt().sum()
        distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross
        return float(distance)


class _Moments:
    """Mean and covariance of features, in fp64 and without keeping them."""

    def __init__(self) -> None:
        self.count = 0
        self.total = torch.zeros(())
        self.products = torch.zeros(())

    def update(self, features: Tensor) -> None:
        rows = features.double().cpu()  # not every accelerator has fp64
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.products = self.products + rows.T @ rows

    def compute(self) -> tuple[Tensor, Tensor]:
        if self.count < 2:
            raise ValueError(f"the Fréchet distance of {self.count} image(s) asked for; it needs at least two")
        mean = self.total / self.count
        return mean, (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)

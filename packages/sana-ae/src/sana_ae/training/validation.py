"""The reconstruction of held-out images, measured as training goes on."""

import torch
from torch import Tensor, nn

from sana_ae.training.metrics import Features, reconstruction_metrics
from sana_ae.training.objective import Perceptual


class ReconstructionValidation:
    """Measures an `AdversarialAutoencoder` on the same images every time it is called.

    Args:
        images: held-out images (N, 3, H, W), in [-1, 1] or bytes.
        batch_size: images of one forward pass.
        perceptual: also measure this distance, such as `LPIPS`; on the device of the model.
        features: also measure rFID with these features, such as `InceptionV3`; on the device of the model. Published
            figures are of tens of thousands of images: those of fewer are higher.

    Raises:
        ValueError: rFID is asked for of fewer than two images.
    """

    def __init__(
        self,
        images: Tensor,
        *,
        batch_size: int = 16,
        perceptual: Perceptual | None = None,
        features: Features | None = None,
    ) -> None:
        if features is not None and len(images) < 2:
            raise ValueError(
                f"rFID of {len(images)} held-out image(s) was asked for; give at least two, or no features"
            )
        self.images = images
        self.batch_size = batch_size
        self.perceptual = perceptual
        self.features = features

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """ "val/psnr", "val/ssim" and, where they are measured, "val/lpips" and "val/rfid"."""
        images = self.images.to(next(model.parameters()).device)
        measured = reconstruction_metrics(
            lambda x: model(x).decoded,
            images,
            batch_size=self.batch_size,
            perceptual=self.perceptual,
            features=self.features,
        )
        return {f"val/{name}": value for name, value in measured.items()}

"""A discriminator that judges overlapping patches, and the hinge loss that trains it (pix2pix; geometric GAN)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class PatchDiscriminator(nn.Module):
    """The PatchGAN of pix2pix: one logit per patch of 70 pixels, high for real.

    Its norms are group norms, not batch norms: an image is judged alike whatever else is in its batch.

    Args:
        width: channels after the first convolution; each following one doubles them, up to eight times.
        halvings: convolutions of stride 2; 3 makes patches of 70 pixels.
    """

    def __init__(self, *, width: int = 64, halvings: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**depth, 8) for depth in range(halvings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for depth in range(1, halvings + 1):
            stride = 2 if depth < halvings else 1
            layers.append(nn.Conv2d(widths[depth - 1], widths[depth], 4, stride=stride, padding=1, bias=False))
            layers.append(nn.GroupNorm(min(32, widths[depth]), widths[depth]))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, images: Tensor, *, fixed: bool = False) -> Tensor:
        """Logits (B, 1, h, w) of images (B, 3, H, W) in [-1, 1].

        `fixed` leaves the discriminator's own parameters without gradients: what a generator learns from.
        """
        if not fixed:
            logits: Tensor = self.layers(images)
            return logits
        constants = {name: parameter.detach() for name, parameter in self.layers.named_parameters()}
        opinion: Tensor = functional_call(self.layers, constants, (images,))
        return opinion


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the logits of real and decoded images, halved: 1 before anything is learnt, 0 at best."""
    return (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """What the decoder lowers: minus the mean logit of its images."""
    return -fake.float().mean()


def adaptive_weight(reconstruction: Tensor, opinion: Tensor, decoded: Tensor) -> Tensor:
    """|d reconstruction| / |d opinion| at the decoded images, 0-dim, at most 10,000 (VQGAN, equation 7).

    VQGAN compares the gradients of the last convolution's weights; at the image, one convolution later, nothing has to
    be recomputed and it does not matter which parameters train. Where processes train together each has its own.
    """
    (wanted,) = torch.autograd.grad(reconstruction, decoded, retain_graph=True)
    (given,) = torch.autograd.grad(opinion, decoded, retain_graph=True)
    weight: Tensor = wanted.float().norm() / (given.float().norm() + 1e-4)
    return weight.clamp(max=1e4)

"""DC-AE: a deterministic autoencoder whose latents are 32 to 128 times smaller per side (arXiv 2410.10733)."""

import torch
from torch import nn

from sana_ae.config import DCAEConfig
from sana_ae.decoder import Decoder
from sana_ae.encoder import Encoder


class DCAE(nn.Module):
    """Deep Compression Autoencoder.

    Images are (B, 3, H, W) in [-1, 1], H and W multiples of `config.compression`; latents are (B, C, H/f, W/f) and
    unscaled: a diffusion model sees them times `config.scaling_factor`. Work is done channels-last whatever the input.
    """

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, x: torch.Tensor, *, channels: int | None = None) -> torch.Tensor:
        """Encode images."""
        z: torch.Tensor = self.encoder(x.contiguous(memory_format=torch.channels_last), channels=channels)
        return z

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latents."""
        x: torch.Tensor = self.decoder(z.contiguous(memory_format=torch.channels_last))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruct images: decode(encode(x))."""
        return self.decode(self.encode(x))

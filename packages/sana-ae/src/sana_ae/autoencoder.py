"""DC-AE: a deterministic autoencoder whose latents are 32 to 128 times smaller per side (arXiv 2410.10733)."""

import torch

from sana_ae import tiling
from sana_ae.config import DCAEConfig
from sana_ae.decoder import Decoder
from sana_ae.encoder import Encoder
from sana_ae.norm import BatchNorm2d
from sana_ae.pretrained import Pretrained


class DCAE(Pretrained):
    """Deep Compression Autoencoder.

    Images are (B, 3, H, W) in [-1, 1], H and W multiples of f = `config.compression`; latents are (B, C, H/f, W/f) and
    unscaled: a diffusion model sees them times `config.scaling_factor`. Computation is channels-last whatever the
    memory format of the input.
    """

    def __init__(self, config: DCAEConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(
        self, x: torch.Tensor, *, channels: int | None = None, tile: int | None = None, progress: bool = True
    ) -> torch.Tensor:
        """Encode images (B, 3, H, W) in [-1, 1] to latents (B, C, H/f, W/f).

        `channels` keeps only the first channels, where the model was trained for that (DC-AE 1.5, section 3.2). `tile`,
        in pixels per side, bounds memory; the result is the same up to rounding. Tiles that take longer than a second
        show a progress bar. Raises ValueError on images, channels or tiles that do not fit the model, and where tiles
        meet a batch norm that is training.
        """
        self._check(x, channels=self.config.in_channels, kind="images")
        f = self.config.compression
        if min(x.shape[2:]) < f or x.shape[2] % f or x.shape[3] % f:
            raise ValueError(
                f"images are {x.shape[2]}x{x.shape[3]} pixels; both sides must be multiples of {f}: pad or crop them"
            )
        if channels is not None:
            self._check_channels(channels)
        x = x.contiguous(memory_format=torch.channels_last)
        if not self._needs_tiles(tile, x.shape[2], x.shape[3]):
            z: torch.Tensor = self.encoder(x, channels=channels)
            return z
        assert tile is not None
        return tiling.encode(self.encoder, x, tile=tile, channels=channels, progress=progress)

    def decode(self, z: torch.Tensor, *, tile: int | None = None, progress: bool = True) -> torch.Tensor:
        """Decode unscaled latents (B, C, h, w) to images (B, 3, h f, w f), about in [-1, 1].

        Latents of a DC-AE 1.5 may hold only their first channels. `tile` and `progress` are as in `encode`.
        """
        adaptive = self.config.adaptive_channels and z.ndim == 4
        self._check(z, channels=z.shape[1] if adaptive else self.config.latent_channels, kind="latents")
        if adaptive:
            self._check_channels(z.shape[1])
        z = z.contiguous(memory_format=torch.channels_last)
        f = self.config.compression
        if not self._needs_tiles(tile, z.shape[2] * f, z.shape[3] * f):
            x: torch.Tensor = self.decoder(z)
            return x
        assert tile is not None
        return tiling.decode(self.decoder, z, tile=tile, progress=progress)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruct images (B, 3, H, W)."""
        return self.decode(self.encode(x))

    def _check(self, x: torch.Tensor, *, channels: int, kind: str) -> None:
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(f"{kind} have shape {tuple(x.shape)}; the model takes (batch, {channels}, height, width)")
        weights = self.decoder.conv_in.weight
        if not x.is_floating_point():
            raise ValueError(f"{kind} are {x.dtype}; the model takes floating point, images in [-1, 1]: x / 127.5 - 1")
        if x.dtype != weights.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"{kind} are {x.dtype} and the weights {weights.dtype}: convert one of them, or use torch.autocast"
            )

    def _check_channels(self, channels: int) -> None:
        full = self.config.latent_channels
        if not self.config.adaptive_channels and channels != full:
            raise ValueError(
                f"{channels} of {full} latent channels were asked for; only models with adaptive_channels (DC-AE 1.5) "
                "can leave some out"
            )
        if not 1 <= channels <= full:
            raise ValueError(f"{channels} latent channels were asked for; the model has 1 to {full}")

    def _needs_tiles(self, tile: int | None, height: int, width: int) -> bool:
        if tile is None:
            return False
        if tile < 1 or tile % self.config.compression:
            raise ValueError(f"tile is {tile} pixels; it must be a multiple of {self.config.compression}")
        needed = tile < max(height, width)
        if needed and any(isinstance(module, BatchNorm2d) and module.training for module in self.modules()):
            raise ValueError("tiles need batch norms in eval mode, or each is normalised by itself: call eval() first")
        return needed

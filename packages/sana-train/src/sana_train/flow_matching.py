"""Rectified flow: the straight path from data to noise and its velocity (SANA, section 3)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sana_train.draws import Draws
from sana_train.objective import Batch

# The training grid: sigma = i / GRID before the shift, and the model sees floor(GRID * sigma).
GRID = 1000


class FlowMatching:
    """The training objective: mean squared error of the velocity `noise - latents` at a random time.

    Times: u = sigmoid(n), n standard normal ("logit_normal") or u uniform ("uniform"); i = floor(1000 u);
    sigma = shift * s / (1 + (shift - 1) * s) with s = i / 1000, so the shift comes after the weighting. The model sees
    x = (1 - sigma) latents + sigma noise and the integer timestep floor(1000 sigma), as it does when sampling.

    Calls `model(latents, timestep, caption, caption_mask)` and needs in the batch `latents` (B, C, h, w), already times
    the autoencoder's scaling factor, `caption` (B, L, Dc) and `caption_mask` (B, L).

    Args:
        shift: the flow shift of the timesteps; 3.0 up to 2K pixels, 6.0 at 4K.
        weighting: the density of times before the shift.
        caption_dropout: chance that a sample's caption is replaced by `null_caption`, for classifier-free guidance.
        null_caption: (L, Dc) embedding of the empty caption, of which shorter captions take the beginning. The
            caption's own mask stays, as NVlabs trains.
    """

    def __init__(
        self,
        *,
        shift: float = 3.0,
        weighting: Literal["logit_normal", "uniform"] = "logit_normal",
        caption_dropout: float = 0.0,
        null_caption: Tensor | None = None,
    ) -> None:
        if not (math.isfinite(shift) and shift > 0):
            raise ValueError(f"shift is {shift}; it must be positive (3.0 up to 2K pixels, 6.0 at 4K)")
        if weighting not in ("logit_normal", "uniform"):
            raise ValueError(f"weighting is {weighting!r}; it must be 'logit_normal' or 'uniform'")
        if not 0 <= caption_dropout <= 1:
            raise ValueError(f"caption_dropout is {caption_dropout}; it is a probability, in [0, 1]")
        if caption_dropout > 0 and null_caption is None:
            raise ValueError(
                f"caption_dropout is {caption_dropout} and there is no null_caption: give its embedding (L, Dc)"
            )
        self.shift = shift
        self.weighting = weighting
        self.caption_dropout = caption_dropout
        self.null_caption = null_caption

    def __call__(self, model: nn.Module, batch: Batch, draws: Draws) -> Tensor:
        """The loss of one batch, a scalar in fp32."""
        latents: Tensor = batch["latents"].float()
        sigma = self.sigmas(draws)
        noise = draws.normal(latents.shape, "noise").to(latents.device)
        batch = batch | {"caption": self._captions(batch, draws)}
        return self.velocity_errors(model, batch, noise=noise, sigma=sigma).mean()

    def velocity_errors(self, model: nn.Module, batch: Batch, *, noise: Tensor, sigma: Tensor) -> Tensor:
        """The mean squared error of each sample's velocity (B,), at noise (B, C, h, w) and noise levels sigma (B,)."""
        latents: Tensor = batch["latents"].float()
        timestep = (GRID * sigma).floor().to(latents)  # in the dtype of sigma, on its device: MPS has no float64
        noisy = torch.lerp(latents, noise, sigma.to(latents).view(-1, 1, 1, 1))
        velocity = model(noisy, timestep, batch["caption"], batch["caption_mask"])
        return F.mse_loss(velocity.float(), noise - latents, reduction="none").flatten(1).mean(1)

    def sigmas(self, draws: Draws) -> Tensor:
        """The noise levels of one step: (B,) in [0, 1), float64 on the CPU."""
        shape = (len(draws.slots),)
        logit_normal = self.weighting == "logit_normal"
        u = draws.normal(shape, "time").sigmoid() if logit_normal else draws.uniform(shape, "time")
        i = (GRID * u).floor().clamp_(max=GRID - 1).double()  # sigmoid rounds to 1 beyond 17 standard deviations
        # Divided once, in float64: a sigma that lies on a whole timestep must not be rounded below it.
        return self.shift * i / (GRID + (self.shift - 1) * i)

    def _captions(self, batch: Batch, draws: Draws) -> Tensor:
        caption: Tensor = batch["caption"]
        if self.caption_dropout == 0:
            return caption
        assert self.null_caption is not None
        dropped = draws.uniform((len(caption),), "caption_dropout") < self.caption_dropout
        null = self.null_caption[: caption.shape[1]].to(caption)
        return torch.where(dropped.to(caption.device).view(-1, 1, 1), null, caption)

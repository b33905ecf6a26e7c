"""The velocity loss on fixed latents, noise and times: what learning lowers, without the noise of training."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from sana_train.distributed import rank, summed, summing_dtype, world_size
from sana_train.draws import Draws
from sana_train.flow_matching import FlowMatching
from sana_train.objective import Batch


class FlowValidation:
    """Measures a model on the same (latents, noise, sigma) triples every time it is called.

    Each sample is seen once in each bin of noise levels, at a sigma uniform within the bin. Captions are never dropped.

    Args:
        batch: held-out samples, as the objective takes them.
        objective: whose velocity error it is.
        bins: equal parts of the noise levels [0, 1).
        seed: names the noise and the sigmas.
        batch_size: samples of one forward pass.

    Raises:
        ValueError: bins or batch_size is below 1, or the batch is empty.
    """

    def __init__(
        self, batch: Batch, *, objective: FlowMatching, bins: int = 5, seed: int = 0, batch_size: int = 16
    ) -> None:
        for name, value in (("bins", bins), ("batch_size", batch_size), ("samples", len(batch["latents"]))):
            if value < 1:
                raise ValueError(f"{name} is {value}; a validation needs at least 1")
        self.batch = batch
        self.objective = objective
        self.bins = bins
        self.seed = seed
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The mean squared velocity error: "val/loss" over all bins, "val/loss_t0.0-0.2" and so on for each.

        Where torch.distributed is initialised this is collective: the processes share the samples, all get the result.
        """
        device = next(model.parameters()).device
        samples, mine, padded = self._shares()
        errors = torch.zeros(self.bins, padded, dtype=summing_dtype(device), device=device)
        with evaluating(model):
            for start in range(mine.start, mine.stop, self.batch_size):
                places = range(start, min(start + self.batch_size, mine.stop))
                for bin in range(self.bins):
                    slots = [place % samples for place in places]
                    errors[bin, places.start : places.stop] = self._errors(model, slots, bin)
        errors = summed(errors)[
            :, :samples
        ]  # each process left zero what it did not measure, so the sum rounds nothing
        means = errors.mean(1).tolist()
        edges = [f"{edge / self.bins:.{self._digits}f}" for edge in range(self.bins + 1)]
        per_bin = {f"val/loss_t{low}-{high}": mean for (low, high), mean in zip(pairwise(edges), means, strict=True)}
        return {"val/loss": errors.mean().item()} | per_bin

    def _shares(self) -> tuple[int, range, int]:
        """How many samples there are, the places of this process, and the places of all.

        The places beyond the samples repeat some: a sharded model needs as many passes in every process.
        """
        samples = len(self.batch["latents"])
        share = -(-samples // world_size())
        return samples, range(rank() * share, (rank() + 1) * share), share * world_size()

    def _errors(self, model: nn.Module, slots: list[int], bin: int) -> Tensor:
        device = next(model.parameters()).device
        part = {name: x[slots].to(device) for name, x in self.batch.items() if isinstance(x, Tensor)}
        draws = Draws(self.seed, bin, slots)
        sigma = (bin + draws.uniform((len(slots),), "validation/time")) / self.bins
        noise = draws.normal(part["latents"].shape, "validation/noise")
        return self.objective.velocity_errors(model, part, noise=noise.to(device), sigma=sigma)

    @property
    def _digits(self) -> int:
        """Decimals that tell the edges of the bins apart."""
        return 1 if 10 % self.bins == 0 else 2 if 100 % self.bins == 0 else 3


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context every module is in eval mode; afterwards each is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True

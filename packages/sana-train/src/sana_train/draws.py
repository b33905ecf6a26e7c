"""Random numbers that are named, not streamed, so that a resumed or resharded run draws the same ones."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draws:
    """The random draws of one training step.

    A number depends on (seed, step, slot, purpose) alone, a slot being a sample's place in the global batch: not on
    how often the run was killed, nor on how many processes share the batch. Nothing has to be saved to resume.
    """

    seed: int
    step: int
    slots: Sequence[int]

    def normal(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Standard normal fp32 values of `shape`; its first size is the number of slots."""
        return self._draw(torch.randn, shape, purpose)

    def uniform(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Uniform fp32 values in [0, 1) of `shape`; its first size is the number of slots."""
        return self._draw(torch.rand, shape, purpose)

    def _draw(self, sample: Callable[..., Tensor], shape: Sequence[int], purpose: str) -> Tensor:
        if shape[0] != len(self.slots):
            raise ValueError(f"shape {tuple(shape)} asks for {shape[0]} slots; this step has {len(self.slots)}")
        generator = torch.Generator("cpu")
        rows = []
        for slot in self.slots:
            generator.manual_seed(self.key(f"{slot}/{purpose}"))
            rows.append(sample(tuple(shape[1:]), generator=generator))
        return torch.stack(rows)

    def key(self, purpose: str) -> int:
        """A seed of its own for whatever in this step draws its numbers in another way."""
        name = f"{self.seed}/{self.step}/{purpose}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1  # manual_seed takes 63 bits

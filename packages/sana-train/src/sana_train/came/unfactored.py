"""A step of CAME for tensors that are not matrices: squares and momentum in full, and no confidence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sana_train.came.chunked import chunk_elements
from sana_train.came.factored import rms_excess
from sana_train.came.passes import move
from sana_train.came.rounding import Noise
from sana_train.came.settings import Settings


@dataclass(frozen=True, slots=True)
class Unfactored:
    """What this process holds of a tensor, and its state, all of one shape."""

    weight: Tensor
    grad: Tensor
    momentum: Tensor
    square: Tensor
    count: int  # elements of all shards
    age: int  # the number of this step, from 1
    noise: Noise | None

    def pieces(self, size: int) -> Iterator[Self]:
        """The same in flat pieces of `size` elements; as it is where the memory does not allow that."""
        tensors = (self.weight, self.grad, self.momentum, self.square)
        if self.weight.numel() <= size or not all(tensor.is_contiguous() for tensor in tensors):
            yield self
            return
        flat = (torch.split(tensor.view(-1), size) for tensor in tensors)
        for number, (weight, grad, momentum, square) in enumerate(zip(*flat, strict=True)):
            noise = self.noise and Noise(self.noise.key, self.noise.first + number * size)
            yield replace(self, weight=weight, grad=grad, momentum=momentum, square=square, noise=noise)


class UnfactoredStep:
    """One step of some tensors: `scale`, then `clip` with the norms of all shards, then `move`."""

    def __init__(self, tensors: Sequence[Unfactored], settings: Settings) -> None:
        self.tensors = tensors
        self.settings = settings
        self.batches = list(_batches(tensors))
        self.excess: Sequence[Tensor] = ()

    def scale(self) -> list[Tensor]:
        """Move the mean squares towards this gradient's; returns the sum of the squares of each U, over this shard."""
        share, eps = 1 - self.settings.betas[1], self.settings.eps[0]
        norms: list[list[Tensor]] = [[] for _ in self.tensors]
        for owners, pieces in self.batches:
            grads = [piece.grad.float() for piece in pieces]
            squares = torch._foreach_mul(grads, grads)
            torch._foreach_add_(squares, eps)
            torch._foreach_lerp_([piece.square for piece in pieces], list(squares), share)
            for owner, update in zip(owners, self._updates(pieces), strict=True):
                norms[owner].append(update.square_().sum())
        return [torch.stack(parts).sum() for parts in norms]

    def clip(self, norms: list[Tensor]) -> None:
        """Keep how far each U is above the clip threshold."""
        self.excess = rms_excess(norms, [tensor.count for tensor in self.tensors], self.settings)

    def move(self) -> None:
        """Move the momenta by the clipped U, and the weights by the momenta."""
        settings = self.settings
        decay = settings.lr * settings.weight_decay or None
        for owners, pieces in self.batches:
            updates = [u / self.excess[owner] for owner, u in zip(owners, self._updates(pieces), strict=True)]
            momenta = [piece.momentum for piece in pieces]
            torch._foreach_lerp_(momenta, updates, 1 - settings.betas[0])
            rates = [settings.lr / settings.bias_divisor(0, piece.age) for piece in pieces]
            for piece, step in zip(pieces, torch._foreach_mul(momenta, rates), strict=True):
                move(piece.weight, step, decay=decay, noise=piece.noise)

    def _updates(self, pieces: Sequence[Unfactored]) -> Sequence[Tensor]:
        """U = grad / sqrt(square) of each piece, not clipped yet."""
        roots = torch._foreach_sqrt([piece.square for piece in pieces])
        torch._foreach_div_(roots, [self.settings.bias_divisor(1, piece.age) ** 0.5 for piece in pieces])
        return torch._foreach_div([piece.grad.float() for piece in pieces], roots)


def _batches(tensors: Sequence[Unfactored]) -> Iterator[tuple[list[int], list[Unfactored]]]:
    """Pieces of all tensors with the numbers of their owners, in batches of a bounded size."""
    owners: list[int] = []
    pieces: list[Unfactored] = []
    held = 0
    for owner, tensor in enumerate(tensors):
        size = chunk_elements(tensor.weight.device)
        for piece in tensor.pieces(size):
            if pieces and held + piece.weight.numel() > size:
                yield owners, pieces
                owners, pieces, held = [], [], 0
            owners.append(owner)
            pieces.append(piece)
            held += piece.weight.numel()
    if pieces:
        yield owners, pieces

"""Which blocks to remove: by any score at once, measured anew after each removal, as a run, or as a baseline."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sana_scale.depth.block_list import block_list
from sana_scale.depth.importance import BlockImportance

Scores = Sequence[float] | Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovalOrder:
    """Blocks in the order in which they go, so that one measurement serves every depth.

    Attributes:
        depth: blocks of the unpruned model.
        blocks: their indices, the first to go first; those that never go are missing.
        scores: the score of each when it was chosen.
    """

    depth: int
    blocks: tuple[int, ...]
    scores: tuple[float, ...]

    def kept(self, keep: int) -> list[int]:
        """The `keep` blocks that stay, ascending."""
        least = max(1, self.depth - len(self.blocks))
        check_keep(keep, self.depth, least)
        return sorted(set(range(self.depth)) - set(self.blocks[: self.depth - keep]))


def removal_order(scores: Scores, *, protect_head: int = 0, protect_tail: int = 0) -> RemovalOrder:
    """The order by one set of scores (L,), such as `importance.values` or `leave_one_out`: lowest first.

    The first `protect_head` and the last `protect_tail` blocks never go. Equal scores go in the order of blocks.
    Source: SANA-1.5, depth pruning.
    """
    values = checked_scores(scores)
    free = _unprotected(len(values), protect_head, protect_tail)
    order = sorted(free, key=lambda block: (values[block], block))
    return RemovalOrder(depth=len(values), blocks=tuple(order), scores=tuple(values[block] for block in order))


def iterative_removal_order(
    model: nn.Module,
    measure: Callable[[nn.ModuleList], Scores],
    *,
    keep: int,
    protect_head: int = 0,
    protect_tail: int = 0,
    blocks: str | None = None,
    progress: bool = True,
) -> RemovalOrder:
    """The order in which blocks go when all that are left are measured anew after each removal.

    Args:
        model: has its blocks removed while this runs, and all of them back afterwards.
        measure: gives a score for each block of the list it is given, which the model then consists of:
            `lambda blocks: block_importance(blocks, run, progress=False).values`.
        keep: where to stop; the order then serves every depth down to it.
        protect_head: first blocks that never go.
        protect_tail: last blocks that never go.
        blocks: the attribute that holds the blocks; None finds it.
        progress: whether a bar counts removals.
    """
    held = block_list(model, blocks)
    depth = len(held.blocks)
    free = _unprotected(depth, protect_head, protect_tail)
    check_keep(keep, depth, max(1, depth - len(free)))
    left, gone, scores = list(range(depth)), list[int](), list[float]()
    for _ in tqdm(range(depth - keep), desc="removing", unit=" blocks", disable=not progress):
        with held.only(left) as present:
            values = checked_scores(measure(present), len(left))
        score, block = min((value, block) for value, block in zip(values, left, strict=True) if block in free)
        left.remove(block)
        gone.append(block)
        scores.append(score)
    return RemovalOrder(depth=depth, blocks=tuple(gone), scores=tuple(scores))


def leave_one_out(
    model: nn.Module, loss: Callable[[], float | Tensor], *, blocks: str | None = None, progress: bool = True
) -> Tensor:
    """By how much `loss()` of the model rises without each block (L,), float64; it may fall.

    `loss` must be a number of the model alone: the same samples, noise and times each time. Low loss after pruning
    does not predict quality after recovery (TinyFusion, arXiv 2412.01199, section 3): compare both.
    """
    held = block_list(model, blocks)
    depth = len(held.blocks)
    if depth == 1:
        raise ValueError("the model has one block; there is no model without it")
    rises = []
    with torch.no_grad():
        whole = float(loss())
        for index in tqdm(range(depth), desc="leaving out", unit=" blocks", disable=not progress):
            with held.only([block for block in range(depth) if block != index]):
                rises.append(float(loss()) - whole)
    return torch.tensor(rises, dtype=torch.float64)


def without_window(importance: BlockImportance, *, protect_head: int = 0, protect_tail: int = 0) -> list[int]:
    """The blocks that stay when the run of blocks goes that turns tokens least, out of importance with `window=n`."""
    size = importance.window
    scores = checked_scores(importance.values)
    depth = len(scores) + size - 1
    if size == depth:
        raise ValueError(f"window is {size}, all blocks of the model: measure with a smaller one")
    starts = range(protect_head, depth - protect_tail - size + 1)
    if min(protect_head, protect_tail) < 0 or not starts:
        raise ValueError(
            f"protect_head is {protect_head} and protect_tail {protect_tail}; they must leave {size} "
            f"consecutive blocks of {depth}"
        )
    first = min(starts, key=lambda start: (scores[start], start))
    return [block for block in range(depth) if not first <= block < first + size]


def evenly_spaced(depth: int, keep: int) -> list[int]:
    """A baseline: `keep` blocks at equal distances, the first and the last among them."""
    check_keep(keep, depth, 1)
    return [round(place * (depth - 1) / max(keep - 1, 1)) for place in range(keep)]


def random_blocks(depth: int, keep: int, *, seed: int) -> list[int]:
    """A baseline: `keep` blocks by chance, ascending; the same for the same seed."""
    check_keep(keep, depth, 1)
    return sorted(random.Random(seed).sample(range(depth), keep))


def check_keep(keep: int, depth: int, least: int) -> None:
    """Raise unless `keep` is a whole number of blocks from `least` to `depth`."""
    if isinstance(keep, bool) or not isinstance(keep, int):
        raise TypeError(f"keep is {keep!r}; it must be a whole number of blocks")
    if not least <= keep <= depth:
        protected = f", of which {least} are protected or were not ranked" if least > 1 else ""
        raise ValueError(f"keep is {keep}; it must be {least} to {depth}, the blocks of the model{protected}")


def checked_scores(scores: Scores, depth: int | None = None) -> list[float]:
    """Scores as floats; raises ValueError for NaN or where there is not one for each of `depth` blocks."""
    values = [float(score) for score in scores]
    if depth is not None and len(values) != depth:
        raise ValueError(f"there are {len(values)} scores for {depth} blocks; give one for each")
    wrong = [block for block, value in enumerate(values) if value != value]
    if wrong:
        raise ValueError(f"the score of block {wrong[0]} is NaN: blocks cannot be ranked by it")
    return values


def _unprotected(depth: int, head: int, tail: int) -> range:
    if head < 0 or tail < 0 or head + tail > depth:
        raise ValueError(f"protect_head is {head} and protect_tail {tail}; they must fit a model of {depth} blocks")
    return range(head, depth - tail)

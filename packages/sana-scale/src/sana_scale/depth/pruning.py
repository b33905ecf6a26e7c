"""Depth pruning: the blocks that matter least go, in place (SANA-1.5, depth pruning)."""

import operator
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from sana_scale.depth.block_list import BlockList, block_list
from sana_scale.depth.fingerprint import combined_hash, tensor_hashes
from sana_scale.depth.importance import BlockImportance
from sana_scale.depth.plan import PrunePlan
from sana_scale.depth.renumbering import renumbered
from sana_scale.depth.selection import check_keep, checked_scores, removal_order

Model = TypeVar("Model", bound=nn.Module)


def prune_depth(
    model: Model,
    *,
    keep: int | Sequence[int],
    importance: BlockImportance | Sequence[float] | Tensor | None = None,
    protect_head: int = 0,
    protect_tail: int = 0,
    blocks: str | None = None,
    selector: str | None = None,
) -> tuple[Model, PrunePlan]:
    """Remove blocks from a model in place, and say which.

    The blocks that stay keep their order and are numbered anew; `model.config` counts them, whether it is a frozen
    dataclass, diffusers' or any other, so that `save_pretrained` writes a model that loads. If anything is wrong, the
    model stays as it was. diffusers' DiT makes its last layer's modulation in block 0: keep it.

    Args:
        model: holds its blocks in an nn.ModuleList, `blocks` or `transformer_blocks`.
        keep: how many stay, those with the highest `importance`; or their indices.
        importance: from `block_importance`, or any scores (L,) of which low ones go first, such as `leave_one_out`.
            With a list it is only written into the plan.
        protect_head: first blocks that stay in any case, where `keep` is a number.
        protect_tail: last blocks that stay in any case, where `keep` is a number.
        blocks: the attribute that holds the blocks; None finds it.
        selector: how the blocks were chosen, for the plan; None says it as far as it is known here.

    Returns:
        The same model, and the plan, whose `apply` does this again.

    Raises:
        ValueError: there is no such number or index of blocks, importance is missing or of another model.

    Source: SANA-1.5, depth pruning.
    """
    held = block_list(model, blocks)
    held.check_depth()
    depth = len(held.blocks)
    scores = None if importance is None else _scores(importance, depth)
    if isinstance(keep, Sequence | Tensor):
        if protect_head or protect_tail:
            raise ValueError("protect_head and protect_tail go with a number of blocks to keep, not with a list")
        kept = _listed(keep, depth)
    else:
        kept = _ranked(keep, depth, scores, protect_head, protect_tail)
    measured = importance if isinstance(importance, BlockImportance) else None
    before, after = _hashes(held, kept)
    plan = PrunePlan(
        depth=depth,
        kept=tuple(kept),
        blocks=held.name,
        selector=selector or ("listed" if isinstance(keep, Sequence | Tensor) else "lowest scores removed at once"),
        scores=None if scores is None else tuple(scores),
        standard_errors=None if measured is None else tuple(measured.standard_errors.tolist()),
        calibration=None if measured is None else measured.calibration,
        model=before,
        pruned=after,
    )
    held.keep(kept)
    return model, plan


def _scores(importance: BlockImportance | Sequence[float] | Tensor, depth: int) -> list[float]:
    if isinstance(importance, BlockImportance):
        if importance.window > 1:
            raise ValueError(
                f"importance is of windows of {importance.window} blocks: keep=without_window(importance) removes one"
            )
        return checked_scores(importance.values, depth)
    return checked_scores(importance, depth)


def _listed(keep: Sequence[int] | Tensor, depth: int) -> list[int]:
    kept = sorted(operator.index(block) for block in keep)
    if not kept or not 0 <= kept[0] <= kept[-1] < depth or len(set(kept)) < len(kept):
        raise ValueError(f"keep is {kept}; it must be different indices of blocks, 0 to {depth - 1}, at least one")
    return kept


def _ranked(keep: int, depth: int, scores: list[float] | None, head: int, tail: int) -> list[int]:
    check_keep(keep, depth, 1)
    if scores is None:
        raise ValueError(f"keep is {keep} and there is no importance to choose by: measure it, or list the blocks")
    return removal_order(scores, protect_head=head, protect_tail=tail).kept(keep)


def _hashes(held: BlockList, kept: list[int]) -> tuple[str, str]:
    """The hashes of the weights before and after, from one reading of the tensors."""
    hashes = tensor_hashes(held.model)
    names = renumbered(hashes, held.name, depth=len(held.blocks), kept=kept)
    return combined_hash(hashes), combined_hash({new: hashes[name] for name, new in names.items()})

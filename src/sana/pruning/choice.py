"""Which blocks of a pipeline's transformer stay: by importance, by the error without each, or by a baseline."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sana.choices import Selector
from sana.pipeline import SanaPipeline
from sana.pruning.calibration import Calibration, VelocityError, measure_importance
from sana_scale.depth import (
    evenly_spaced,
    iterative_removal_order,
    leave_one_out,
    random_blocks,
    removal_order,
    without_window,
)
from sana_scale.depth.selection import checked_scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How blocks are chosen.

    Attributes:
        keep: how many stay, or which.
        selector: "importance" removes those of lowest block importance at once; "iterative" measures anew after each;
            "leave-one-out" goes by the velocity error without each block; "window" removes consecutive ones; "uniform"
            and "random" are baselines.
        protect_head, protect_tail: first and last blocks that stay in any case.
        seed: of "random".
        scores: one per block, instead of importance.
    """

    keep: int | tuple[int, ...]
    selector: Selector = "importance"
    protect_head: int = 0
    protect_tail: int = 0
    seed: int = 0
    scores: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        protected = self.protect_head or self.protect_tail
        if protected and (self.selector in ("uniform", "random") or not isinstance(self.keep, int)):
            raise ValueError(
                "blocks can only be protected in a ranking: leave the protection out, or the list, uniform or random"
            )
        if self.selector != "importance" and not isinstance(self.keep, int):
            raise ValueError(f"the blocks are listed and the selector is {self.selector!r}: leave one out")
        if self.scores is not None and self.selector != "importance":
            raise ValueError(f"scores are given and the selector is {self.selector!r}: it makes its own, leave one out")


def check_choice(choice: Choice, depth: int) -> None:
    """Raise ValueError where a model of `depth` blocks has no such blocks, protected blocks or scores."""
    scores = checked_scores([0.0] * depth if choice.scores is None else choice.scores, depth)
    if isinstance(choice.keep, int):
        removal_order(scores, protect_head=choice.protect_head, protect_tail=choice.protect_tail).kept(choice.keep)
    elif not choice.keep or len({*choice.keep} & {*range(depth)}) < len(choice.keep):
        raise ValueError(
            f"the blocks to keep are {list(choice.keep)}; they must be different indices of blocks, 0 to {depth - 1}"
        )


def read_scores(path: Path) -> tuple[float, ...]:
    """The scores of blocks in a plan that an earlier pruning left, or in a JSON list.

    Raises:
        ValueError: the file is neither, or a plan without scores.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    scores = content.get("scores") if isinstance(content, dict) else content
    if not isinstance(scores, list) or not all(isinstance(score, int | float) for score in scores):
        raise ValueError(f"{path} has no scores: give a plan.json that a pruning wrote, or a JSON list of numbers")
    return tuple(map(float, scores))


def chosen_blocks(
    pipeline: SanaPipeline, choice: Choice, calibration: Calibration, *, progress: bool
) -> tuple[Sequence[int], str]:
    """The blocks that stay where they are listed or chosen by more than one ranking, and how they were chosen."""
    model, keep = pipeline.transformer, choice.keep
    if not isinstance(keep, int):
        return keep, "listed"
    depth = len(model.blocks)
    head, tail = choice.protect_head, choice.protect_tail
    if choice.selector == "uniform":
        return evenly_spaced(depth, keep), "evenly spaced"
    if choice.selector == "random":
        return random_blocks(depth, keep, seed=choice.seed), f"random, seed {choice.seed}"
    if keep == depth:
        return range(depth), "all"
    if choice.selector == "window":
        importance, _ = measure_importance(pipeline, calibration, window=depth - keep, branches=(), progress=progress)
        return without_window(
            importance, protect_head=head, protect_tail=tail
        ), "the consecutive blocks of lowest importance"
    if choice.selector == "iterative":
        order = iterative_removal_order(
            model,
            lambda blocks: measure_importance(pipeline, calibration, branches=(), progress=False)[0].values,
            keep=keep,
            protect_head=head,
            protect_tail=tail,
            progress=progress,
        )
        return order.kept(keep), "lowest block importance, measured after each removal"
    error = VelocityError(pipeline, calibration, progress=progress)
    rises = leave_one_out(model, lambda: error(model), progress=progress)
    return removal_order(rises, protect_head=head, protect_tail=tail).kept(keep), "lowest velocity error without it"

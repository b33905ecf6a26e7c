"""The report of a pruning: before, after, and after recovery, side by side, with the pictures of importance."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from sana_scale.depth.cost import Cost
from sana_scale.depth.importance import BlockImportance
from sana_scale.depth.plan import PrunePlan
from sana_scale.depth.plots import plot_importance, plot_importance_by_time
from sana_scale.figures import new_figure
from sana_scale.files import write_bytes, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A state of the model, such as "unpruned", "pruned", "recovered, 100 steps", with what was measured of it."""

    name: str
    cost: Cost
    scores: Mapping[str, float] = field(default_factory=dict)


def write_report(
    folder: str | PathLike[str],
    plan: PrunePlan,
    stages: Sequence[Stage],
    *,
    importance: BlockImportance | None = None,
) -> list[Path]:
    """Write report.md and report.json, and the two pictures where importance is given; returns the files.

    Args:
        folder: made where it is missing.
        plan: what was pruned.
        stages: at least the model before and after pruning, in this order, then any after recovery.
        importance: what `plan` was made by.

    Raises:
        ValueError: there are fewer than two stages, or importance is of another depth.
        ImportError: importance is given and matplotlib is not installed; nothing is written.
    """
    if len(stages) < 2:
        raise ValueError(f"there are {len(stages)} stages; give the model before pruning and after it")
    if importance is not None:
        _check_drawable(importance, plan)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if importance is not None:
        written = [folder / "importance.png", folder / "importance_by_time.png"]
        plot_importance(importance, written[0], removed=plan.removed)
        plot_importance_by_time(importance, written[1], removed=plan.removed)
    facts = {
        "plan": dataclasses.asdict(plan),
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "importance": None if importance is None else _tables(importance),
    }
    write_json(folder / "report.json", _finite(facts))
    write_bytes(folder / "report.md", _markdown(plan, stages, [path.name for path in written]).encode())
    return [*written, folder / "report.json", folder / "report.md"]


def _check_drawable(importance: BlockImportance, plan: PrunePlan) -> None:
    if importance.window > 1 or len(importance.values) != plan.depth:
        raise ValueError(
            f"importance has {len(importance.values)} values of windows of {importance.window}; the plan is for "
            f"{plan.depth} blocks, one by one"
        )
    new_figure(1, 1)  # fails here, before anything is written, or not at all


def _markdown(plan: PrunePlan, stages: Sequence[Stage], pictures: Sequence[str]) -> str:
    scores = list(dict.fromkeys(name for stage in stages for name in stage.scores))
    header = ["", "blocks", "parameters", "GFLOPs", "seconds", *scores]
    rows = [_row(stage, stages[0], scores) for stage in stages]
    lines = [
        f"# Depth pruning: {plan.depth} -> {len(plan.kept)} blocks",
        "",
        f"Removed: {', '.join(map(str, plan.removed)) or 'none'} ({plan.selector}).",
        "",
        *(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)),
        "",
    ]
    if len(stages) == 2:
        lines += ["Not recovered yet: how good a model is after fine-tuning, its loss before does not tell.", ""]
    lines += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures]
    return "\n".join(lines).rstrip() + "\n"


def _row(stage: Stage, first: Stage, scores: Sequence[str]) -> list[str]:
    cost, whole = stage.cost, first.cost
    return [
        stage.name,
        str(cost.blocks),
        f"{cost.parameters / 1e6:,.1f}M{_share(cost.parameters, whole.parameters)}",
        f"{cost.flops / 1e9:,.3g}{_share(cost.flops, whole.flops)}",
        f"{cost.seconds:.3g}{_share(cost.seconds, whole.seconds)}",
        *(f"{stage.scores[name]:.4g}" if name in stage.scores else "" for name in scores),
    ]


def _share(value: float, whole: float) -> str:
    return f" ({value / whole:.0%})" if whole and value != whole else ""


def _tables(importance: BlockImportance) -> dict[str, Any]:
    return {entry.name: getattr(importance, entry.name) for entry in dataclasses.fields(importance)}


def _finite(value: Any) -> Any:
    """The same for JSON: tensors as lists, and null for numbers that are not finite."""
    if isinstance(value, Tensor):
        return _finite(value.tolist())
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

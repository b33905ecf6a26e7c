"""A report on a judge: what it said of labelled pictures, in numbers that can be compared, as JSON and as plots."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from sana_judge.judge_facts import JudgeFacts
from sana_judge.training.calibration import fit_calibration, fit_tasks
from sana_judge.training.measures import accuracy, auc, calibration_error, per_prompt_auc, risk_coverage
from sana_judge.whole_files import write_json

# Points of the curve that the JSON keeps.
COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedExample:
    """A labelled picture and what the judge said of it; pictures of one group compete with each other."""

    margin: float
    p_yes: float
    label: float
    group: str
    task: str = ""


def judge_report(judged: Sequence[JudgedExample]) -> dict[str, Any]:
    """What to know of a judge, as JSON takes it; a number that does not exist for these examples is None.

    auc and per_prompt_auc look at margins, which no calibration changes; accuracy, calibration_error and risk at
    p_yes. risk is the share of errors among so many of the surest answers.

    Raises:
        ValueError: there are no examples.
    """
    if not judged:
        raise ValueError("no examples were judged; a report needs at least one")
    tasks = sorted({example.task for example in judged} - {""})
    return _numbers(judged) | {
        "risk": _risks(judged),
        "tasks": {task: _numbers([example for example in judged if example.task == task]) for task in tasks},
    }


def write_report(path: str | PathLike[str], report: dict[str, Any]) -> None:
    """Write a report, whole or not at all."""
    write_json(Path(path), report)


def calibrated_facts(facts: JudgeFacts, judged: Sequence[JudgedExample]) -> JudgeFacts:
    """The facts with calibrations fitted to these examples: one for all, and one for each task with enough of them.

    Raises:
        ValueError: the examples have one label only, or the judge is no better than chance.
    """
    margins, labels = [example.margin for example in judged], [example.label for example in judged]
    return replace(
        facts,
        calibration=fit_calibration(margins, labels),
        tasks=fit_tasks(margins, labels, [example.task for example in judged]),
    )


def _numbers(judged: Sequence[JudgedExample]) -> dict[str, Any]:
    margins = np.array([example.margin for example in judged])
    p_yes = np.array([example.p_yes for example in judged])
    labels = np.array([example.label for example in judged])
    within, prompts = per_prompt_auc(margins, labels, [example.group for example in judged])
    return {
        "examples": len(judged),
        "right": int((labels > 0.5).sum()),
        "auc": _known(auc(margins, labels)),
        "per_prompt_auc": _known(within),
        "prompts_with_both": prompts,
        "accuracy": _known(accuracy(p_yes, labels)),
        "calibration_error": _known(calibration_error(p_yes, labels)),
    }


def _risks(judged: Sequence[JudgedExample]) -> dict[str, Any]:
    coverage, risk = risk_coverage([e.p_yes for e in judged], [e.label for e in judged])
    places = [int(np.searchsorted(coverage, share - 1e-9)) for share in COVERAGES]
    return {"coverage": list(COVERAGES), "risk": [_known(risk[place]) for place in places]}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)

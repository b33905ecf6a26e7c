"""From margins to probabilities: Platt's logistic fit, overall and for each task (Platt, 1999)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sana_judge.judge_score import Calibration
from sana_judge.training.measures import Numbers

# Fewer answers of a task say too little about two numbers.
LEAST = 50

_STEPS = 100
_TOLERANCE = 1e-10


def fit_calibration(margins: Numbers, labels: Numbers) -> Calibration:
    """The scale and offset under which sigmoid(scale * margin + offset) explains the labels best.

    Labels are softened as Platt does, by one answer of each kind, so that separable data give finite numbers.

    Raises:
        ValueError: there are no two labels, or larger margins do not go with right pictures.
    """
    margins, labels = np.asarray(margins, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    right = int((labels > 0.5).sum())
    wrong = len(labels) - right
    if not right or not wrong:
        raise ValueError(f"{right} right and {wrong} wrong answers; a calibration needs some of both")
    targets = np.where(labels > 0.5, (right + 1) / (right + 2), 1 / (wrong + 2))
    spread = margins.std() or 1.0
    slope, height = _newton((margins - margins.mean()) / spread, targets)
    scale = slope / spread
    if not scale > 0:
        raise ValueError(
            f"the best scale is {scale:.3g}: right images do not get larger margins, so train the judge longer"
        )
    return Calibration(scale=float(scale), offset=float(height - scale * margins.mean()))


def fit_tasks(margins: Numbers, labels: Numbers, tasks: Sequence[str]) -> dict[str, Calibration]:
    """A calibration for each task that has enough answers of both kinds; the others keep the overall one."""
    margins, labels, named = np.asarray(margins), np.asarray(labels), np.asarray(tasks)
    fitted = {}
    for task in sorted(set(tasks) - {""}):
        own = named == task
        if own.sum() >= LEAST:
            try:
                fitted[task] = fit_calibration(margins[own], labels[own])
            except ValueError:
                continue
    return fitted


def _newton(x: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Minimise the cross-entropy of sigmoid(a * x + b), a convex function of two numbers, by damped Newton steps."""
    design = np.stack([x, np.ones_like(x)], axis=1)  # (N, 2)
    best = np.zeros(2)
    loss = _cross_entropy(design @ best, targets)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-(design @ best)))
        gradient = design.T @ (p - targets)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while (new := _cross_entropy(design @ (best - step), targets)) > loss and np.abs(step).max() > _TOLERANCE:
            step /= 2
        best, loss = best - step, new
        if np.abs(step).max() < _TOLERANCE:
            break
    return float(best[0]), float(best[1])


def _cross_entropy(logits: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]) -> float:
    return float((np.logaddexp(0, logits) - targets * logits).sum())

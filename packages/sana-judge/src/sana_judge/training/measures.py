"""How good a judge's probabilities are: order, order within a prompt, calibration, and what abstaining buys."""

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

Numbers = Sequence[float] | npt.NDArray[np.floating]


def auc(scores: Numbers, labels: Numbers) -> float:
    """The chance that a right picture has a higher score than a wrong one, a tie counting half.

    A label above one half is right. NaN where all labels are the same.
    """
    ranks, right = _ranks(np.asarray(scores, dtype=np.float64)), _right(labels)
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return float("nan")
    wins = ranks[right].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def per_prompt_auc(scores: Numbers, labels: Numbers, groups: Sequence[Hashable]) -> tuple[float, int]:
    """The mean `auc` over the groups that have both labels, and how many those are: what best-of-N depends on."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    values = [auc(scores[places], labels[places]) for places in members.values()]
    known = [value for value in values if not np.isnan(value)]
    return (float(np.mean(known)) if known else float("nan")), len(known)


def accuracy(probabilities: Numbers, labels: Numbers) -> float:
    """The share of pictures for which "more likely right than not" is true."""
    return float(np.mean((np.asarray(probabilities) > 0.5) == _right(labels)))


def calibration_error(probabilities: Numbers, labels: Numbers, *, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): mean gap between probability and frequency over equal bins."""
    probabilities, right = np.asarray(probabilities, dtype=np.float64), _right(labels)
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=probabilities - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(probabilities))


def risk_coverage(probabilities: Numbers, labels: Numbers) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Coverage (N,) and, for each, the share of errors among so many of the surest answers.

    Answers that are equally sure share their errors evenly, so that their order does not matter.
    """
    probabilities, right = np.asarray(probabilities, dtype=np.float64), _right(labels)
    sureness = np.abs(probabilities - 0.5)
    wrong = ((probabilities > 0.5) != right).astype(np.float64)
    _, tie, sizes = np.unique(-sureness, return_inverse=True, return_counts=True)
    shared = (np.bincount(tie, weights=wrong) / sizes)[np.sort(tie)]
    answered = np.arange(1, len(wrong) + 1)
    return answered / len(wrong), shared.cumsum() / answered


def _right(labels: Numbers) -> npt.NDArray[np.bool_]:
    return np.asarray(labels, dtype=np.float64) > 0.5


def _ranks(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 1, equal scores sharing the mean of theirs."""
    _, tie, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    last = sizes.cumsum()
    return (last - (sizes - 1) / 2)[tie]

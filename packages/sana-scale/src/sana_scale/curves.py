"""From one run of N images the whole curve: what best-of-k would have given for every k, and what it could have."""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul, truediv
from statistics import fmean
from typing import Any

from sana_scale.ranking import tie_groups
from sana_scale.result import BestOfN

Band = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class BestOfKCurve:
    """Best-of-k against k, the mean over prompts.

    Attributes:
        k: the numbers of images that the other lists are about.
        mean: expected truth of what the judge picks from k images (of the mean of its best `keep`).
        oracle: the same when picking by the truth; for truths of 0 and 1 this is pass@k.
        gap: oracle - mean, what a better judge could still win.
        bands, oracle_bands, gap_bands: a (low, high) for each; None with a single prompt, which shows no spread.
        prompts, images: how many prompts, and how many images of each at least.
        keep, confidence: as asked for.
    """

    k: list[int]
    mean: list[float]
    oracle: list[float]
    gap: list[float]
    bands: list[Band] | None
    oracle_bands: list[Band] | None
    gap_bands: list[Band] | None
    prompts: int
    images: int
    keep: int
    confidence: float


def best_of_k_curve(
    scores: Sequence[float] | Sequence[Sequence[float]] | BestOfN[Any] | Sequence[BestOfN[Any]],
    truth: Sequence[float] | Sequence[Sequence[float]] | None = None,
    *,
    ks: Iterable[int] | None = None,
    keep: int = 1,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> BestOfKCurve:
    """Expected best-of-k over all subsets of k of the images of a prompt, averaged over prompts.

    The expectation is exact, not sampled: the item of rank i of N from below is the j-th best of a random k-subset in
    C(N-i, j-1) C(i-1, k-j) of C(N, k) cases. Equal scores share what comes to them. Bands are percentiles of the mean
    over prompts drawn again with replacement, `resamples` times.

    Args:
        scores: the judge's, of one prompt or of several, or the results of `best_of_n` that have them. Scores of a run
            that was stopped or pruned are not a random sample and give curves that are too good: use complete runs,
            without stop= and prune=.
        truth: what the images are worth (0 and 1, say), in the same places; by default the scores themselves.
        ks: which k; by default all to 64 and then eight to a doubling, as far as every prompt has images.
        keep: the curve of the mean truth of the `keep` best.
        confidence: what part of the resampled means lies within the bands.
        resamples: how many there are.
        seed: of the resampling.

    Raises:
        ValueError: no scores, lengths that differ between scores and truth, numbers that are not finite, a result that
            was stopped or pruned, a k that some prompt has no images for, or no resamples or confidence for bands.
    """
    judged = _as_prompts(_of_complete_runs(scores), "scores")
    worth = judged if truth is None else _as_prompts(truth, "truth")
    if [len(row) for row in judged] != [len(row) for row in worth]:
        raise ValueError("scores and truth must have the same number of prompts, and of images for each prompt")
    images = min(len(row) for row in judged)
    chosen = default_ks(keep, images) if ks is None else sorted(set(ks))
    if not 0 < confidence <= 1 or resamples < 1:
        raise ValueError(
            f"confidence is {confidence} and resamples {resamples}; confidence must be above 0 "
            "and at most 1, resamples at least 1"
        )
    if not chosen or not 1 <= keep <= chosen[0] or chosen[-1] > images:
        raise ValueError(
            f"ks are {chosen}; they must lie between keep, {keep}, and {images}, the images of every prompt"
        )

    weights = {length: [subset_weights(length, k, keep) for k in chosen] for length in {len(row) for row in judged}}
    picked = [_curve(by_judge(*rows), weights) for rows in zip(judged, worth, strict=True)]
    ideal = picked if truth is None else [_curve(sorted(row, reverse=True), weights) for row in worth]
    gaps = [[o - p for o, p in zip(*pair, strict=True)] for pair in zip(ideal, picked, strict=True)]

    draws = _resampled(len(judged), resamples, seed) if len(judged) > 1 else []
    bands = [_bands(curves, draws, confidence) if draws else None for curves in (picked, ideal, gaps)]
    mean, oracle, gap = (list(map(fmean, zip(*curves, strict=True))) for curves in (picked, ideal, gaps))
    return BestOfKCurve(
        k=chosen, mean=mean, oracle=oracle, gap=gap, bands=bands[0], oracle_bands=bands[1], gap_bands=bands[2],
        prompts=len(judged), images=images, keep=keep, confidence=confidence,
    )  # fmt: skip


def default_ks(keep: int, images: int) -> list[int]:
    """Every k from `keep` to 64, then eight to a doubling, and the last."""
    sparse = (round(64 * 2 ** (step / 8)) for step in range(1, 8 * images.bit_length()))
    return [k for k in sorted({*range(1, 65), *sparse, images}) if keep <= k <= images]


def subset_weights(length: int, k: int, keep: int) -> list[float]:
    """Of each item, best first, the part it has in the mean of the best `keep` of a random k-subset of `length`."""
    total = [0.0] * (length - k + keep)
    for rank in range(keep):
        for place, chance in enumerate(rank_chances(length, k, rank), start=rank):
            total[place] += chance / keep
    return total


def rank_chances(length: int, k: int, rank: int) -> list[float]:
    """For the items from place `rank` on: the chance to be the one with `rank` better ones in a random k-subset."""
    last = length - k + rank
    ratios = [(place + 1) / (place + 1 - rank) * (last - place) / (length - place - 1) for place in range(rank, last)]
    likeliest = min(rank * length // (k - 1), last) - rank if k > 1 else 0
    # The first and the last may be below 1e-308, so it starts from the likeliest: what underflows then is nothing.
    later = accumulate(ratios[likeliest:], mul, initial=1.0)
    earlier = accumulate(reversed(ratios[:likeliest]), truediv, initial=1.0)
    relative = [*list(earlier)[:0:-1], *later]
    whole = math.fsum(relative)
    return [weight / whole for weight in relative]


def by_judge(scores: Sequence[float], truth: Sequence[float]) -> list[float]:
    """The truths in the order of falling scores; where scores are equal, the mean of theirs."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    groups = tie_groups([scores[place] for place in order])
    return [fmean(truth[order[place]] for place in group) for group in groups for _ in group]


def _curve(ordered: list[float], weights: dict[int, list[list[float]]]) -> list[float]:
    return [sum(map(mul, of_k, ordered)) for of_k in weights[len(ordered)]]


def _resampled(prompts: int, resamples: int, seed: int) -> list[list[int]]:
    """How often each prompt is in each resample."""
    draw = random.Random(seed)
    counts = []
    for _ in range(resamples):
        row = [0] * prompts
        for chosen in draw.choices(range(prompts), k=prompts):
            row[chosen] += 1
        counts.append(row)
    return counts


def _bands(curves: list[list[float]], draws: list[list[int]], confidence: float) -> list[Band]:
    bands = []
    for column in zip(*curves, strict=True):
        means = sorted(sum(map(mul, counts, column)) / len(column) for counts in draws)
        low = round((1 - confidence) / 2 * (len(means) - 1))
        bands.append((means[low], means[-1 - low]))
    return bands


def _of_complete_runs(scores: Any) -> Any:
    """Scores, those of results taken out of them."""
    rows = [scores] if isinstance(scores, BestOfN) else scores
    for row in rows:
        if isinstance(row, BestOfN) and (row.stopped or row.pruned):
            why = f"was stopped by {row.stopped}" if row.stopped else f"gave up on {len(row.pruned)} images"
            raise ValueError(
                f"the run of {row.prompt!r} {why}: its scores are not a random sample and give curves that are too "
                "good; use a complete run, without stop= and prune="
            )
    return [row.scores if isinstance(row, BestOfN) else row for row in rows]


def _as_prompts(values: Sequence[float] | Sequence[Sequence[float]], name: str) -> list[list[float]]:
    nested = [isinstance(row, Iterable) for row in values]
    rows: Any = values if all(nested) else [values]
    if any(nested) != all(nested) or not nested or not all(len(row) for row in rows):
        raise ValueError(f"{name} must be the numbers of one prompt, or a list of them for each of several prompts")
    numbers = [[float(value) for value in row] for row in rows]
    if not all(math.isfinite(value) for row in numbers for value in row):
        raise ValueError(f"{name} must be finite numbers")
    return numbers

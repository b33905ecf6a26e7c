"""What the growth experiment says: steps to the loss of the model from scratch, stability, and the curves."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe, write_result
from recipes.emoji.grow_experiment import PARENT, SCRATCH
from sana_train.metrics import read_metrics

LAST = 3  # validations whose mean is the loss that a run ends with
Curve = list[tuple[int, float]]


def write_report(out: Path, *, settings: Mapping[str, Any], device: str, path: Path) -> Path:
    """Write what the finished runs in `out` say to `path`, and a plot beside it; returns the path.

    Raises:
        FileNotFoundError: no run in `out` is finished.
    """
    runs = [_run(path.parent) for path in sorted(out.glob("*/result.json"))]
    if not runs:
        raise FileNotFoundError(f"no run in {out} is finished: train first")
    arms = {arm: [run for run in runs if run["arm"] == arm] for arm in dict.fromkeys(run["arm"] for run in runs)}
    scratch = {run["seed"]: run for run in arms.get(SCRATCH, [])}
    report = {
        "benchmark": "depth growth against training from scratch, on emoji scenes",
        "settings": settings,
        **describe(torch.device(device)),
        "arms": {arm: _summary(of_arm, scratch, settings) for arm, of_arm in arms.items()},
        "runs": runs,
    }
    written = write_result(report, path.stem, path)
    plot(report, written.with_suffix(".png"))
    return written


def steps_to(curve: Curve, loss: float) -> float | None:
    """The step at which a curve first reaches `loss`, interpolated between validations; None where it never does."""
    if curve and curve[0][1] <= loss:
        return float(curve[0][0])
    for (step, above), (later, below) in pairwise(curve):
        if below <= loss:
            return step + (later - step) * (above - loss) / (above - below)
    return None


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Draw the mean validation loss of every arm against the step, and the range over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for arm in report["arms"]:
        curves = [run["curve"] for run in report["runs"] if run["arm"] == arm and "failed" not in run]
        if arm == PARENT or not curves:
            continue
        steps = [step for step, _ in curves[0]]
        losses = [[loss for _, loss in curve] for curve in curves]
        means = [statistics.fmean(values) for values in zip(*losses, strict=True)]
        (line,) = axes.plot(steps, means, label=arm, color="black" if arm == SCRATCH else None, linewidth=1.8)
        lowest, highest = ([pick(values) for values in zip(*losses, strict=True)] for pick in (min, max))
        axes.fill_between(steps, lowest, highest, color=line.get_color(), alpha=0.15, linewidth=0)
    settings = report["settings"]
    if PARENT in report["arms"]:
        loss = report["arms"][PARENT]["final_loss"]
        axes.axhline(loss, color="gray", linestyle="--", linewidth=1, label=f"{PARENT} at its end")
    axes.set(
        xlabel="step",
        ylabel="validation loss",
        yscale="log",
        title=f"{settings['parent_depth']} blocks grown to {settings['depth']}, mean and range of seeds",
    )
    for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatted("{x:g}")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _run(folder: Path) -> dict[str, Any]:
    lines = read_metrics(folder)
    trained = [line for line in lines if "loss" in line and "skipped" not in line]
    facts = json.loads((folder / "result.json").read_text())
    begun = facts.pop("begun_at", 0)
    start = [(0, facts["loss_at_start"])] if "loss_at_start" in facts else []
    return {
        "curve": start + [(line["step"] - begun, line["val/loss"]) for line in lines if "val/loss" in line],
        **facts,
        "greatest_grad_norm": max((line["grad_norm"] for line in trained), default=None),
        "skipped_steps": sum("skipped" in line for line in lines),
    }


def _summary(runs: Sequence[dict[str, Any]], scratch: Mapping[int, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The means over seeds; a run is compared with the model from scratch of its own seed."""
    finals = [_final(run["curve"]) for run in runs if run["curve"]]
    pairs = [(run, scratch[run["seed"]]) for run in runs if run["seed"] in scratch]
    reached = [steps_to(run["curve"], _final(base["curve"])) for run, base in pairs]
    whole = [step for step in reached if step is not None]
    always = bool(whole) and len(whole) == len(reached)
    mean = statistics.fmean(whole) if always else math.nan
    grown = all(run["arm"] not in (SCRATCH, PARENT) for run in runs)
    return {
        "runs": len(runs),
        "failed": sum("failed" in run for run in runs),
        "final_loss": statistics.fmean(finals) if finals else None,
        "final_losses": finals,
        "greatest_grad_norm": max(
            (run["greatest_grad_norm"] for run in runs if run["greatest_grad_norm"]), default=None
        ),
        "steps_to_the_loss_of_scratch": reached,
        "steps_saved": 1 - mean / settings["steps"] if always and grown else None,
        "cost_saved_with_parent": 1 - _cost(mean, settings) if always and grown and settings["parent_steps"] else None,
        "seconds_per_run": statistics.fmean(run["seconds"] for run in runs),
    }


def _cost(steps: float, settings: Mapping[str, Any]) -> float:
    """Steps times blocks of the parent and then of the grown model, over those of the model from scratch."""
    parent, depth = settings["parent_steps"] * settings["parent_depth"], settings["depth"]
    return float((parent + steps * depth) / (settings["steps"] * depth))


def _final(curve: Curve) -> float:
    return statistics.fmean(loss for _, loss in curve[-LAST:])

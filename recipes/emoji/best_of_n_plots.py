"""The best-of-N experiment as a picture: correct images against N, and against what they cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

JUDGE, ORACLE, PLAIN = "#1f5a92", "#c4511d", "0.45"


def plot_experiment(report: dict[str, Any], path: Path) -> None:
    """Draw a report of `best_of_n.py` into a PNG."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    by_number, by_task, by_cost = figure.subplots(1, 3)
    _by_number(by_number, report["curve"])
    _by_task(by_task, report["curve"]["k"], report["tasks"])
    _by_cost(by_cost, report["curve"], report["flops"], report["strategies"])
    figure.suptitle(f"GenEval-emoji, best of N; judge: {report['settings']['judge']}", fontsize=11)
    figure.savefig(path, dpi=120)


def _by_number(axes: Axes, curve: dict[str, Any]) -> None:
    for name, values, bands, colour in (
        ("oracle", curve["oracle"], curve["oracle_bands"], ORACLE),
        ("judge", curve["mean"], curve["bands"], JUDGE),
    ):
        axes.plot(curve["k"], values, color=colour, marker=".", label=name)
        if bands:
            low, high = zip(*bands, strict=True)
            axes.fill_between(curve["k"], low, high, color=colour, alpha=0.15, linewidth=0)
    _finish(axes, "images per prompt, N", "correct winners")


def _by_task(axes: Axes, ks: Sequence[int], tasks: dict[str, dict[str, list[float]]]) -> None:
    for task, curve in tasks.items():
        axes.plot(ks, curve["mean"], marker=".", label=task.replace("_", " "))
    _finish(axes, "images per prompt, N", "correct winners")


def _by_cost(axes: Axes, curve: dict[str, Any], flops: dict[str, float], strategies: Sequence[dict[str, Any]]) -> None:
    each = sum(flops.values()) / 1e9
    axes.plot([k * each for k in curve["k"]], curve["mean"], color=PLAIN, marker=".", label="best of N")
    for number, way in enumerate(strategies[1:]):
        axes.plot(way["flops"] / 1e9, way["score"], "D", color=f"C{number}", markersize=6, label=way["name"])
    _finish(axes, "GFLOP per prompt", "correct winners")


def _finish(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(top=1.02)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")

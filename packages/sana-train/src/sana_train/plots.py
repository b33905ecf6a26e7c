"""Pictures of a run, drawn from its log alone: loss, learning rate and gradient norm against the step."""

import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_train.folders import replace_file
from sana_train.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RAW, SMOOTH, VALIDATION, SKIPPED = "#9db8d2", "#1f5a92", "#c4511d", "#b3202c"
Points = tuple[list[float], list[float]]


def plot_run(run_dir: str | Path) -> list[Path]:
    """Write `loss.png`, `lr.png` and `grad_norm.png` into `run_dir` from its `metrics.jsonl`.

    Returns what was written: nothing where the run has logged nothing yet.

    Raises:
        ImportError: matplotlib is not installed.
    """
    lines = read_metrics(run_dir)
    if not lines:
        return []
    taken = [line for line in lines if "skipped" not in line]  # a skipped step has the spike that it was skipped for
    skipped = [line["step"] for line in lines if "skipped" in line]
    return [
        _save(Path(run_dir) / "loss.png", "loss", lambda axes: _draw_loss(axes, taken, skipped)),
        _save(Path(run_dir) / "lr.png", "learning rate", lambda axes: _draw_rate(axes, taken)),
        _save(Path(run_dir) / "grad_norm.png", "gradient norm before clipping", lambda axes: _draw_norm(axes, taken)),
    ]


def smoothed(values: list[float], *, share: float = 0.02) -> list[float]:
    """An exponential mean over about `share` of the values, without the bias of its start; NaN is skipped."""
    keep = 1 - 1 / max(1.0, share * len(values))
    total = weight = 0.0
    means = []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight if weight else math.nan)
    return means


def _draw_loss(axes: "Axes", lines: list[dict[str, Any]], skipped: list[float]) -> None:
    steps, losses = _points(lines, "loss")
    axes.plot(steps, losses, color=RAW, linewidth=0.8, label="training")
    axes.plot(steps, smoothed(losses), color=SMOOTH, linewidth=1.8, label="training, smoothed")
    bins = sorted({name for line in lines for name in line if name.startswith("val/loss_t")})
    for number, name in enumerate(bins):
        shade = 0.75 - 0.6 * number / max(1, len(bins) - 1)  # darker is noisier
        noise = name.removeprefix("val/loss_t")
        axes.plot(*_points(lines, name), color=str(shade), linewidth=1, marker=".", label=f"validation, noise {noise}")
    if any("val/loss" in line for line in lines):
        axes.plot(*_points(lines, "val/loss"), color=VALIDATION, linewidth=1.8, marker="o", label="validation, all")
    _limit(axes, [losses, *(_points(lines, name)[1] for name in (*bins, "val/loss"))])
    if skipped:
        bottom = axes.get_xaxis_transform()  # steps across, the height of the picture upwards
        axes.plot(skipped, [0.02] * len(skipped), "|", color=SKIPPED, transform=bottom, label="skipped steps")
    axes.legend(frameon=False, fontsize=8)


def _draw_rate(axes: "Axes", lines: list[dict[str, Any]]) -> None:
    axes.plot(*_points(lines, "lr"), color=SMOOTH, linewidth=1.8)
    axes.set_ylim(bottom=0)


def _draw_norm(axes: "Axes", lines: list[dict[str, Any]]) -> None:
    steps, norms = _points(lines, "grad_norm")
    axes.plot(steps, norms, color=RAW, linewidth=0.8)
    axes.plot(steps, smoothed(norms), color=SMOOTH, linewidth=1.8)
    if any(norm > 0 for norm in norms):
        axes.set_yscale("log")


def _limit(axes: "Axes", curves: list[list[float]]) -> None:
    """Let the first steps, far above all others, leave the picture: it ends a tenth above the 99th percentile."""
    values = sorted(value for curve in curves for value in curve if math.isfinite(value))
    if values and values[0] >= 0:
        top = values[math.ceil(0.99 * len(values)) - 1]
        axes.set_ylim(0, 1.1 * top or None)


def _points(lines: list[dict[str, Any]], name: str) -> Points:
    """Steps and values of one metric; null, which stands for a number that is not finite, is a gap."""
    known = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in known], [math.nan if value is None else value for _, value in known]


def _save(path: Path, name: str, draw: "Callable[[Axes], None]") -> Path:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'sana-train[plots]'") from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")  # no pyplot: no window, no global state
    axes = figure.add_subplot()
    draw(axes)
    axes.set_xlabel("step")
    axes.set_ylabel(name)
    axes.margins(x=0.01)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    replace_file(path, picture.getvalue())
    return path

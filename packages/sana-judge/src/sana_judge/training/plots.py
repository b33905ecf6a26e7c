"""Two pictures of a judge: whether its probabilities are true, and how many errors abstaining saves."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sana_judge.training.measures import risk_coverage
from sana_judge.training.report import JudgedExample
from sana_judge.whole_files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 10
LINE, GUIDE = "#1f5a92", "#9a9a9a"


def plot_report(judged: Sequence[JudgedExample], folder: str | PathLike[str]) -> list[Path]:
    """Write `reliability.png` and `risk_coverage.png` of what a judge said into `folder`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _save(folder / "reliability.png", lambda axes: _draw_reliability(axes, judged)),
        _save(folder / "risk_coverage.png", lambda axes: _draw_risk(axes, judged)),
    ]


def _draw_reliability(axes: "Axes", judged: Sequence[JudgedExample]) -> None:
    p_yes = np.array([example.p_yes for example in judged])
    right = np.array([example.label > 0.5 for example in judged])
    bin_of = np.minimum((p_yes * BINS).astype(int), BINS - 1)
    filled = np.unique(bin_of)
    means = [p_yes[bin_of == number].mean() for number in filled]
    shares = [right[bin_of == number].mean() for number in filled]
    sizes = [400 * (bin_of == number).mean() for number in filled]
    axes.plot([0, 1], [0, 1], color=GUIDE, linewidth=1, linestyle="--")
    axes.plot(means, shares, color=LINE, linewidth=1.5)
    axes.scatter(means, shares, s=sizes, color=LINE)
    axes.set(xlabel="P(yes)", ylabel="share of right pictures", xlim=(0, 1), ylim=(0, 1))


def _draw_risk(axes: "Axes", judged: Sequence[JudgedExample]) -> None:
    coverage, risk = risk_coverage([e.p_yes for e in judged], [e.label for e in judged])
    axes.plot(coverage, risk, color=LINE, linewidth=1.8)
    axes.axhline(risk[-1], color=GUIDE, linewidth=1, linestyle="--")
    axes.set(xlabel="share of pictures answered, surest first", ylabel="share of errors among them", xlim=(0, 1))
    axes.set_ylim(bottom=0)


def _save(path: Path, draw: "Callable[[Axes], None]") -> Path:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'sana-judge[train]'") from error
    figure = Figure(figsize=(5, 4.5), layout="constrained")  # no pyplot: no window, no global state
    axes = figure.add_subplot()
    draw(axes)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
    return path

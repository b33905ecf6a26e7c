"""The best-of-k curve as JSON and as a picture, against the number of images or against what they cost."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_scale.curves import Band, BestOfKCurve
from sana_scale.figures import new_figure, write_figure
from sana_scale.files import write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

JUDGE, ORACLE = "#1f5a92", "#c4511d"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCost:
    """What one image takes, such as ImageCost(draw=102.0, judge=1.5, unit="TFLOP")."""

    draw: float
    judge: float
    unit: str

    def of(self, images: int) -> float:
        """The cost of this many images."""
        return images * (self.draw + self.judge)


def write_curve(curve: BestOfKCurve, path: str | Path, *, cost: ImageCost | None = None) -> None:
    """Write a curve as JSON, with the cost of each k where `cost` says what an image takes."""
    content: dict[str, Any] = asdict(curve)
    if cost:
        content |= {"cost": [cost.of(k) for k in curve.k], "cost_per_image": asdict(cost)}
    write_json(Path(path), content)


def plot_curve(curve: BestOfKCurve, path: str | Path, *, cost: ImageCost | None = None, label: str = "truth") -> None:
    """Draw a curve into a PNG: what the judge picks and what the oracle would, with their bands.

    The axis of `cost`, where it is given, runs along the top. `label` names what the truth measures.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    _draw(axes, curve.k, curve.oracle, curve.oracle_bands, name="oracle", colour=ORACLE)
    _draw(axes, curve.k, curve.mean, curve.bands, name="judge", colour=JUDGE)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda k, _: f"{k:g}")
    axes.set(xlabel="images per prompt, k", ylabel=f"{label}, best {curve.keep if curve.keep > 1 else ''} of k")
    axes.grid(alpha=0.25)
    axes.spines["right"].set_visible(False)
    axes.legend(frameon=False)
    if cost:
        each = cost.of(1)
        there_and_back: Any = (lambda k: k * each, lambda spent: spent / each)
        top = axes.secondary_xaxis("top", functions=there_and_back)
        top.set_xlabel(f"cost per prompt, {cost.unit}")
    write_figure(figure, path)


def _draw(
    axes: "Axes", ks: list[int], values: list[float], bands: list[Band] | None, *, name: str, colour: str
) -> None:
    axes.plot(ks, values, color=colour, linewidth=1.8, marker="." if len(ks) < 40 else None, label=name)
    if bands:
        low, high = zip(*bands, strict=True)
        axes.fill_between(ks, low, high, color=colour, alpha=0.15, linewidth=0)

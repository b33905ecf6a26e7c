"""Figures of matplotlib, made without pyplot and written whole."""

from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from sana_scale.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches; raises ImportError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'sana-scale[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")  # no pyplot: no window, no global state


def write_figure(figure: "Figure", path: str | PathLike[str]) -> None:
    """Write a figure as PNG."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_bytes(Path(path), content.getvalue())

"""The paper's figure, importance per block, and a heat map of block against time step (SANA-1.5, figure 5)."""

import math
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch

from sana_scale.depth.importance import BlockImportance
from sana_scale.figures import new_figure, write_figure

KEPT, REMOVED, ERROR = "#1f5a92", "#d9a441", "#333333"
_LOG_RATIO = 30  # a linear axis shows nothing of a value 30 times below the highest


def plot_importance(importance: BlockImportance, path: str | PathLike[str], *, removed: Sequence[int] = ()) -> None:
    """Write a PNG of the importance of each block, with its standard error; `removed` blocks stand out.

    Raises:
        ImportError: matplotlib is not installed.
    """
    values, errors = importance.values.tolist(), importance.standard_errors.nan_to_num(0).tolist()
    figure = new_figure(max(6.0, 0.16 * len(values) + 2), 3.8)
    axes = figure.add_subplot()
    for label, color, among in (("kept", KEPT, False), ("removed", REMOVED, True)):
        blocks = [block for block in range(len(values)) if (block in removed) == among]
        if blocks:
            heights = [values[block] for block in blocks]
            axes.bar(blocks, heights, color=color, label=label if removed else None, width=0.8)
    axes.errorbar(range(len(values)), values, yerr=errors, fmt="none", ecolor=ERROR, elinewidth=0.8, capsize=1.5)
    _scale(axes, values)
    axes.set_xlabel("block" if importance.window == 1 else f"first of {importance.window} blocks")
    axes.set_ylabel("block importance, 1 - cos")
    axes.set_xlim(-0.7, len(values) - 0.3)
    axes.locator_params(axis="x", integer=True)
    if removed:
        axes.legend(frameon=False, fontsize=8)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path)


def plot_importance_by_time(
    importance: BlockImportance, path: str | PathLike[str], *, removed: Sequence[int] = ()
) -> None:
    """Write a PNG of importance by block and timestep, in a logarithmic colour scale; empty bins are grey.

    Raises:
        ImportError: matplotlib is not installed.
    """
    table = importance.by_time
    figure = new_figure(max(6.0, 0.16 * len(table) + 2.5), 4.2)
    from matplotlib.colors import LogNorm

    axes = figure.add_subplot()
    known = table[table.isfinite() & (table > 0)]
    low, high = (known.min().item(), known.max().item()) if len(known) else (1e-3, 1.0)
    norm = LogNorm(low, high if high > low else 10 * low)
    shown = torch.where(table > 0, table, torch.where(table == 0, low, table))  # log 0 is drawn as the lowest
    borders = [block - 0.5 for block in range(len(table) + 1)]
    axes.set_facecolor("0.85")
    image = axes.pcolormesh(borders, importance.time_edges.tolist(), shown.T.tolist(), norm=norm, cmap="viridis")
    figure.colorbar(image, ax=axes, label="block importance, 1 - cos")
    axes.set_xlabel("block" if importance.window == 1 else f"first of {importance.window} blocks")
    axes.set_ylabel("timestep (1000: noise)" if importance.time_edges[-1] == 1000 else "timestep")
    axes.locator_params(axis="x", integer=True)
    if removed:
        top = axes.get_xaxis_transform()
        axes.plot(
            list(removed), [1.03] * len(removed), "v", color=REMOVED, transform=top, clip_on=False, label="removed"
        )
        axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.04))
    write_figure(figure, path)


def _scale(axes: Any, values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    if positive and max(positive) > _LOG_RATIO * sorted(positive)[len(positive) // 2]:
        axes.set_yscale("log")
        axes.set_ylim(bottom=min(positive) / 2)
    else:
        axes.set_ylim(bottom=0)

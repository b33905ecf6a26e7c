"""Depth pruning: which blocks of a transformer matter, the model without the others, and its recovery (SANA-1.5)."""

try:
    import numpy as _numpy  # noqa: F401
    import torch as _torch  # noqa: F401
    import tqdm as _tqdm  # noqa: F401
except ImportError as _error:
    raise ImportError(f"sana_scale.depth needs {_error.name}: pip install 'sana-scale[depth]'") from _error

from sana_scale.depth.carried_state import prune_named, prune_optimizer
from sana_scale.depth.cost import Cost, forward_cost
from sana_scale.depth.fingerprint import calibration_hash, model_hash
from sana_scale.depth.importance import BlockImportance, block_importance
from sana_scale.depth.plan import PrunePlan
from sana_scale.depth.plots import plot_importance, plot_importance_by_time
from sana_scale.depth.pruning import prune_depth
from sana_scale.depth.recovery import Distillation
from sana_scale.depth.report import Stage, write_report
from sana_scale.depth.selection import (
    RemovalOrder,
    evenly_spaced,
    iterative_removal_order,
    leave_one_out,
    random_blocks,
    removal_order,
    without_window,
)

__all__ = [
    "BlockImportance",
    "Cost",
    "Distillation",
    "PrunePlan",
    "RemovalOrder",
    "Stage",
    "block_importance",
    "calibration_hash",
    "evenly_spaced",
    "forward_cost",
    "iterative_removal_order",
    "leave_one_out",
    "model_hash",
    "plot_importance",
    "plot_importance_by_time",
    "prune_depth",
    "prune_named",
    "prune_optimizer",
    "random_blocks",
    "removal_order",
    "without_window",
    "write_report",
]

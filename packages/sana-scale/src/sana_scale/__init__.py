"""Inference-time scaling for any generator and any judge, and depth pruning: fewer blocks, nearly the same pictures."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from sana_scale.curve_files import ImageCost, plot_curve, write_curve
from sana_scale.curves import BestOfKCurve, best_of_k_curve
from sana_scale.executors import Executor, Local
from sana_scale.halving import Halving, Pilot
from sana_scale.knockout import tournament
from sana_scale.many_prompts import best_of_n_many
from sana_scale.protocols import Judge, PreviewingSampler, Sampler
from sana_scale.ray_actors import Ray
from sana_scale.result import BestOfN, Candidate, Progress
from sana_scale.sampling import best_of_n
from sana_scale.several_judges import Minimum, Weighted
from sana_scale.shared_dir import SharedDir, work_on
from sana_scale.stopping import Budget, ImprovementBelow, NoGain, StopRule, Threshold

if TYPE_CHECKING:
    from sana_scale.depth import BlockImportance, PrunePlan, block_importance, prune_depth

__version__ = version("sana-scale")

__all__ = [
    "BestOfKCurve",
    "BestOfN",
    "BlockImportance",
    "Budget",
    "Candidate",
    "Executor",
    "Halving",
    "ImageCost",
    "ImprovementBelow",
    "Judge",
    "Local",
    "Minimum",
    "NoGain",
    "Pilot",
    "PreviewingSampler",
    "Progress",
    "PrunePlan",
    "Ray",
    "Sampler",
    "SharedDir",
    "StopRule",
    "Threshold",
    "Weighted",
    "__version__",
    "best_of_k_curve",
    "best_of_n",
    "best_of_n_many",
    "block_importance",
    "plot_curve",
    "prune_depth",
    "tournament",
    "work_on",
    "write_curve",
]

# Depth pruning needs torch, which best-of-N does not: these load when first asked for.
_LOADED_LATE = {"BlockImportance", "PrunePlan", "block_importance", "prune_depth"}


def __getattr__(name: str) -> object:
    if name not in _LOADED_LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("sana_scale.depth"), name)


def __dir__() -> list[str]:
    return __all__

"""A flow-matching trainer for diffusion transformers: kill it, resume it, get the same weights."""

from importlib.metadata import version

from sana_train.checkpoint import CheckpointError
from sana_train.config import TrainConfig
from sana_train.draws import Draws
from sana_train.ema import EMA
from sana_train.flow_matching import FlowMatching
from sana_train.objective import Batch, Batches, Objective
from sana_train.trainer import Trainer

__version__ = version("sana-train")

__all__ = [
    "EMA",
    "Batch",
    "Batches",
    "CheckpointError",
    "Draws",
    "FlowMatching",
    "Objective",
    "TrainConfig",
    "Trainer",
    "__version__",
]

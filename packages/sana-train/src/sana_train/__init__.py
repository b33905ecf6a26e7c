"""Flow matching for diffusion transformers: exact resume, sharded runs, CAME in 8 bit."""

from importlib.metadata import version

from sana_train.came import CAME, CAME8bit, optimizer_state_bytes
from sana_train.checkpointing.checkpoint import CheckpointError
from sana_train.config import TrainConfig
from sana_train.data import AspectRatioBuckets, CaptionSampler, LatentShards, write_shard
from sana_train.distributed import process_group
from sana_train.draws import Draws
from sana_train.ema import EMA
from sana_train.flow_matching import FlowMatching
from sana_train.growth import GrowthPlan, grow_depth
from sana_train.objective import Batch, Batches, DividedBatches, Objective
from sana_train.plots import plot_run
from sana_train.run_lock import RunInUseError
from sana_train.train_step import StepResult
from sana_train.trainer import Trainer
from sana_train.validation import FlowValidation

__version__ = version("sana-train")

__all__ = [
    "CAME",
    "EMA",
    "AspectRatioBuckets",
    "Batch",
    "Batches",
    "CAME8bit",
    "CaptionSampler",
    "CheckpointError",
    "DividedBatches",
    "Draws",
    "FlowMatching",
    "FlowValidation",
    "GrowthPlan",
    "LatentShards",
    "Objective",
    "RunInUseError",
    "StepResult",
    "TrainConfig",
    "Trainer",
    "__version__",
    "grow_depth",
    "optimizer_state_bytes",
    "plot_run",
    "process_group",
    "write_shard",
]

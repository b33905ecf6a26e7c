"""A training run that goes on deeper: its checkpoint grown, and an optimizer that breaks the new blocks in."""

from dataclasses import asdict
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from sana.growing import Growth
from sana.training.settings import GrowthSettings
from sana_dit import SanaTransformer
from sana_train.growth import GrowthPlan, grow_optimizer, grow_run


def is_run(source: str | Path) -> bool:
    """Whether this is the folder of a training run, which has more to grow than a model."""
    return (Path(source) / "checkpoints").is_dir()


def grow_training_run(
    run_dir: str | Path, destination: str | Path, growth: Growth, *, progress: bool = True
) -> GrowthPlan:
    """Grow the newest checkpoint of a run of `sana train` into a run folder: weights, average and optimizer state.

    The folder has `checkpoints/`, `model/` and the plan, `growth.json`. A run file goes on there with it as run_dir,
    its model as [model] init, and the plan in [growth].

    Raises:
        FileExistsError: the destination is not empty.
        CheckpointError: the run has no good checkpoint.
        ValueError: it cannot be grown so.
    """
    model = SanaTransformer.from_pretrained(Path(run_dir) / "model")
    _, plan = grow_run(run_dir, destination, model, **asdict(growth), progress=progress)
    return plan


def grown_optimizer(optimizer: Optimizer, model: nn.Module, growth: GrowthSettings | None) -> Optimizer:
    """The same optimizer, which treats new blocks as [growth] says, where the run has it."""
    if growth is None:
        return optimizer
    return grow_optimizer(
        optimizer,
        model,
        GrowthPlan.load(growth.plan),
        warmup_steps=growth.warmup_steps,
        frozen_steps=growth.frozen_steps,
    )


def growth_facts(growth: GrowthSettings | None) -> dict[str, str]:
    """Which growth a run is of, by the hash of the weights that it made; nothing where it is of none."""
    return {} if growth is None else {"growth": GrowthPlan.load(growth.plan).grown}

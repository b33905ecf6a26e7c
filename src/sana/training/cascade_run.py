"""Training the stages of a cascade in order, and taking it up in the right one after a kill."""

import gc
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sana.kernels import use_kernels
from sana.training.cascade import Cascade, Stage
from sana.training.run import make_trainer
from sana_scale.files import write_json
from sana_train import CheckpointError
from sana_train.distributed import rank

FINISHED = "finished.json"


def train_cascade(
    cascade: Cascade, *, device: torch.device, resume: bool = False, allow_changes: bool = False
) -> str | None:
    """Train the stages that are not finished; returns the name of the one that was stopped in, or None at the end.

    The data of a finished stage is not looked at again, and may be gone. Every process calls this.

    Raises:
        CheckpointError: the folder holds a cascade and `resume` is not given, or a finished stage had other settings.
        ValueError: a stage cannot be trained as it is described; see `make_trainer`.
    """
    if not resume and any(cascade.run_dir.glob("*/checkpoints/step-*")):
        raise CheckpointError(
            f"{cascade.run_dir} holds a cascade: resume it with --resume, or give another cascade.run_dir"
        )
    left = [stage for stage in cascade.stages if not _is_finished(stage, allow_changes=allow_changes)]
    for stage in left:
        if not _train(stage, device, allow_changes=allow_changes):
            return stage.name
        if rank() == 0:
            record = {"train": stage.settings.train.as_json()} | _deciding(stage)
            write_json(Path(stage.settings.train.run_dir) / FINISHED, record)
        gc.collect()  # the trainer's cycles hold the stage's weights
        torch.cuda.empty_cache()
    return None


def _train(stage: Stage, device: torch.device, *, allow_changes: bool) -> bool:
    trainer = make_trainer(stage.settings, device=device, resume=True, allow_changes=allow_changes)
    with use_kernels(stage.settings.model.kernels):
        return trainer.fit()


def _is_finished(stage: Stage, *, allow_changes: bool) -> bool:
    """Whether a stage was trained to its end, with these settings."""
    path = Path(stage.settings.train.run_dir) / FINISHED
    if not path.is_file():
        return False
    then = json.loads(path.read_text(encoding="utf-8"))
    changes = stage.settings.train.changes_since(then["train"])
    now = _deciding(stage)
    for name in sorted({*then, *now} - {"train"}):
        if then.get(name) != now.get(name):
            changes.append(f"[{name}] {then.get(name)} -> {now.get(name)}")
    if changes and not allow_changes:
        raise CheckpointError(
            f"stage {stage.name} is finished and was trained with other settings ({', '.join(changes)}): use the same, "
            "pass allow_changes=True to keep it as it is, or give another cascade.run_dir"
        )
    return True


def _deciding(stage: Stage) -> dict[str, Any]:
    """What else than [train] decides what a stage learns, as JSON gives it back."""
    settings = stage.settings
    sections = {name: getattr(settings, name) for name in ("optimizer", "objective", "data", "growth")}
    model = {name: value for name, value in asdict(settings.model).items() if name != "kernels"}
    if Path(settings.train.run_dir).parent in Path(settings.model.init or "").parents:
        model["init"] = "the stage before"  # wherever the cascade lies now
    decided = {name: asdict(section) for name, section in sections.items() if section is not None}
    return json.loads(json.dumps(decided | {"model": model}))  # type: ignore[no-any-return]

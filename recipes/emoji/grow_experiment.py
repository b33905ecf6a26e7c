"""One run of the growth experiment: a model grown in some way, or trained from scratch (SANA-1.5, depth growth)."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import nn

from recipes.emoji.grow_model import CaptionedVelocity, Scenes, embedded_model, scenes_unseen_by_embedded
from sana_train import FlowMatching, FlowValidation, TrainConfig, Trainer
from sana_train.growth import GrowthPlan, Init, grow_depth, grow_optimizer, grow_run

PARENT, SCRATCH = "parent", "scratch"
STOPPED = 143  # what a shell says of a process that a SIGTERM ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """One way to begin deeper."""

    init: Init
    drop_last: int
    carried: bool = False
    """Whether the optimizer's state comes along, and only new blocks are warmed up."""


ARMS = {
    "partial_preservation": Growth(init="partial_preservation", drop_last=2),
    "partial_preservation-0": Growth(init="partial_preservation", drop_last=0),
    "partial_preservation-0-carried": Growth(init="partial_preservation", drop_last=0, carried=True),
    "cyclic": Growth(init="cyclic", drop_last=2),
    "block_replication": Growth(init="block_replication", drop_last=2),
    "interleaved-0": Growth(init="interleaved", drop_last=0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What all runs share; results of other settings never share a folder.

    An embedded parent was trained long before: it has no `parent_steps`, and its width is its own.
    """

    parent: Literal["trained", "embedded"]
    precision: Literal["fp32", "bf16"]
    steps: int
    parent_steps: int | None
    parent_depth: int
    depth: int
    width: int | None
    batch_size: int
    lr: float


class Experiment:
    """The runs, a folder of `out` for each.

    Args:
        settings: of all runs.
        latents: shards of `encode_scenes`.
        out: where runs lie.
        device: that trains.
    """

    def __init__(self, settings: Settings, *, latents: Path, out: Path, device: str) -> None:
        self.settings = settings
        self.latents = latents
        self.out = out
        self.device = device
        embedded = settings.parent == "embedded"
        held_out = scenes_unseen_by_embedded() if embedded else self._scenes(seed=0).held_out()
        self.objective = FlowMatching(shift=3.0)
        self.validation = FlowValidation(held_out, objective=self.objective, bins=4, batch_size=128)

    def run(self, arm: str, seed: int) -> None:
        """Train one arm from one seed to its end, from where it was; `result.json` is written last."""
        folder = self.out / f"{arm}-{seed}"
        if (folder / "result.json").exists():
            return
        torch.manual_seed(seed)
        started = time.monotonic()
        if arm == PARENT and self.settings.parent == "embedded":
            facts: dict[str, Any] = {"curve": [(0, self._loss(embedded_model()))]}  # all there is to find out
        else:
            facts = self._trained(arm, seed, folder)
        facts |= {"arm": arm, "seed": seed, "seconds": time.monotonic() - started}
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"result.{os.getpid()}"
        temporary.write_text(json.dumps(facts))
        temporary.replace(folder / "result.json")

    def _trained(self, arm: str, seed: int, folder: Path) -> dict[str, Any]:
        carried = arm in ARMS and ARMS[arm].carried
        model, facts = self._carried(arm, seed, folder) if carried else self._model(arm, seed)
        try:
            if not self._trainer(model.to(self.device), folder, arm, seed).fit():
                raise SystemExit(STOPPED)
        except FloatingPointError as error:
            facts["failed"] = str(error)
        return facts

    def _model(self, arm: str, seed: int) -> tuple[nn.Module, dict[str, Any]]:
        if arm in (PARENT, SCRATCH):
            model = self._untrained(self.settings.parent_depth if arm == PARENT else self.settings.depth)
            return model, {"loss_at_start": self._loss(model)}
        if self.settings.parent == "embedded":
            model = embedded_model()
        else:
            model = self._untrained(self.settings.parent_depth)
            model.load_state_dict(load_file(self._trained_parent(arm, seed) / "model" / "model.safetensors"))
        growth = ARMS[arm]
        _, plan = grow_depth(
            model.get_submodule("transformer"),
            self.settings.depth,
            drop_last=growth.drop_last,
            init=growth.init,
            seed=seed,
            progress=False,
        )
        return model, {"change": plan.change, "loss_at_start": self._loss(model)}

    def _carried(self, arm: str, seed: int, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
        growth, plan = ARMS[arm], folder / "growth.json"
        if not plan.exists():
            grow_run(
                self._trained_parent(arm, seed),
                folder,
                self._untrained(self.settings.parent_depth),
                self.settings.depth,
                part="transformer",
                drop_last=growth.drop_last,
                init=growth.init,
                seed=seed,
                progress=False,
            )
        facts = {"change": GrowthPlan.load(plan).change, "begun_at": self.settings.parent_steps}
        return self._untrained(self.settings.depth), facts

    def _untrained(self, depth: int) -> nn.Module:
        if self.settings.width is None:
            return embedded_model(depth)
        return CaptionedVelocity(depth=depth, width=self.settings.width)

    def _trained_parent(self, arm: str, seed: int) -> Path:
        folder = self.out / f"{PARENT}-{seed}"
        if not (folder / "result.json").exists():
            raise SystemExit(f"{arm}:{seed} grows from {PARENT}:{seed}, which is not trained yet: run that first")
        return folder

    def _trainer(self, model: nn.Module, folder: Path, arm: str, seed: int) -> Trainer:
        parent, carried = arm == PARENT, arm in ARMS and ARMS[arm].carried
        settings, parent_steps = self.settings, self.settings.parent_steps or 0
        steps, before = parent_steps if parent else settings.steps, parent_steps if carried else 0
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            learning, lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        warmup = settings.steps // 20
        if carried:
            optimizer = grow_optimizer(optimizer, model, GrowthPlan.load(folder / "growth.json"), warmup_steps=warmup)
        config = TrainConfig(
            run_dir=str(folder),
            steps=before + steps,
            seed=2 * seed + parent,
            warmup_steps=warmup,
            ema_decay=None,
            precision=settings.precision,
            spike_sigmas=None,  # an unstable run shall be seen to be one
            validate_every=max(1, steps // 20),
            checkpoint_every=max(1, steps // 4),
            keep_checkpoints=1,
            log_every=max(1, settings.steps // 200),
            plots=False,
        )
        batches = self._scenes(seed=2 * seed + parent, first_step=before)
        return Trainer.start_or_resume(
            model, self.objective, optimizer, batches, config, validation=self.validation, allow_changes=carried
        )

    def _scenes(self, *, seed: int, first_step: int = 0) -> Scenes:
        return Scenes(self.latents, seed=seed, batch_size=self.settings.batch_size, first_step=first_step)

    def _loss(self, model: nn.Module) -> float:
        return self.validation(model.to(self.device))["val/loss"]

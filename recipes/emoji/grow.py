"""Models grown in every way against one trained from scratch: same depth, steps and data (SANA-1.5, depth growth)."""

import argparse
import json
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from recipes.emoji.grow_model import CaptionedVelocity, Scenes, embedded_model
from recipes.emoji.grow_report import write_report
from sana_train import FlowMatching, FlowValidation, TrainConfig, Trainer
from sana_train.growth import GrowthPlan, Init, grow_depth, grow_optimizer, grow_run

PARENT, SCRATCH = "parent", "scratch"
STOPPED = 143  # what a shell says of a process that a SIGTERM ended
EMBEDDED_DEPTH = 8


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
class Experiment:
    """What all runs share."""

    latents: Path
    out: Path
    parent: Literal["trained", "embedded"]
    device: str
    precision: Literal["fp32", "bf16"]
    steps: int
    parent_steps: int
    parent_depth: int
    depth: int
    width: int
    batch_size: int
    lr: float

    def run(self, arm: str, seed: int) -> None:
        """Train one arm from one seed to its end, from where it was; `result.json` is written last."""
        folder = self.out / f"{arm}-{seed}"
        if (folder / "result.json").exists():
            return
        torch.manual_seed(seed)
        started = time.monotonic()
        if arm == PARENT and self.parent == "embedded":
            facts = self._measured_parent()
        else:
            facts = self._trained(arm, seed, folder)
        facts |= {"arm": arm, "seed": seed, "seconds": time.monotonic() - started}
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"result.{os.getpid()}"
        temporary.write_text(json.dumps(facts))
        temporary.replace(folder / "result.json")

    def _measured_parent(self) -> dict[str, Any]:
        """The embedded model is trained already: its loss is all there is to find out."""
        return {"curve": [(0, self._loss(embedded_model()))]}

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
            model = self._untrained(self.parent_depth if arm == PARENT else self.depth)
            return model, {"loss_at_start": self._loss(model)}
        if self.parent == "embedded":
            model = embedded_model()
        else:
            model = self._untrained(self.parent_depth)
            model.load_state_dict(load_file(self._trained_parent(arm, seed) / "model" / "model.safetensors"))
        growth = ARMS[arm]
        _, plan = grow_depth(
            model.get_submodule("transformer"),
            self.depth,
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
                self._untrained(self.parent_depth),
                self.depth,
                part="transformer",
                drop_last=growth.drop_last,
                init=growth.init,
                seed=seed,
                progress=False,
            )
        return self._untrained(self.depth), {"change": GrowthPlan.load(plan).change, "begun_at": self.parent_steps}

    def _untrained(self, depth: int) -> nn.Module:
        return embedded_model(depth) if self.parent == "embedded" else CaptionedVelocity(depth=depth, width=self.width)

    def _trained_parent(self, arm: str, seed: int) -> Path:
        folder = self.out / f"{PARENT}-{seed}"
        if not (folder / "result.json").exists():
            raise SystemExit(f"{arm}:{seed} grows from {PARENT}:{seed}, which is not trained yet: run that first")
        return folder

    def _trainer(self, model: nn.Module, folder: Path, arm: str, seed: int) -> Trainer:
        parent, carried = arm == PARENT, arm in ARMS and ARMS[arm].carried
        batches = Scenes(self.latents, seed=2 * seed + parent, batch_size=self.batch_size)
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            learning, lr=self.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        warmup = self.steps // 20
        if carried:
            optimizer = grow_optimizer(optimizer, model, GrowthPlan.load(folder / "growth.json"), warmup_steps=warmup)
        steps = self.parent_steps if parent else self.steps
        config = TrainConfig(
            run_dir=str(folder),
            steps=steps + (self.parent_steps if carried else 0),
            seed=2 * seed + parent,
            warmup_steps=warmup,
            ema_decay=None,
            precision=self.precision,
            spike_sigmas=None,  # an unstable run shall be seen to be one
            validate_every=max(1, steps // 20),
            checkpoint_every=max(1, steps // 4),
            keep_checkpoints=1,
            log_every=max(1, self.steps // 200),
            plots=False,
        )
        validation = self._validation(batches)
        return Trainer.start_or_resume(
            model, FlowMatching(shift=3.0), optimizer, batches, config, validation=validation, allow_changes=carried
        )

    def _loss(self, model: nn.Module) -> float:
        scenes = Scenes(self.latents, seed=0, batch_size=self.batch_size)
        return self._validation(scenes)(model.to(self.device))["val/loss"]

    def _validation(self, batches: Scenes) -> FlowValidation:
        return FlowValidation(batches.held_out(), objective=FlowMatching(shift=3.0), bins=4, batch_size=128)


def main() -> None:
    """Train every arm from every seed, or go on; then write growth-emoji.json (growth-embedded.json) and a plot."""
    options = _options()
    values = {name: getattr(options, name) for name in Experiment.__dataclass_fields__}
    experiment = Experiment(**values)
    # Captions are short: attention by plain matrix products trains a quarter faster on a CPU than the flash kernel.
    with sdpa_kernel(SDPBackend.MATH) if options.device == "cpu" else nullcontext():
        for arm, seed in [] if options.report else _runs(options):
            print(f"{arm}:{seed}", flush=True)
            experiment.run(arm, seed)
    if options.only is None:
        name = "growth-embedded" if options.parent == "embedded" else "growth-emoji"
        print(write_report(experiment.out, settings=values, path=(options.results or options.out) / f"{name}.json"))


def _runs(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Arm by arm, so that those which are there when time runs out have all seeds."""
    if options.only:
        arm, _, seed = options.only.partition(":")
        if arm not in (PARENT, SCRATCH, *ARMS) or not seed.isdecimal():
            raise SystemExit(f"--only {options.only} is no ARM:SEED; arms are {', '.join((PARENT, SCRATCH, *ARMS))}")
        return [(arm, int(seed))]
    runs = [(arm, seed) for arm in (PARENT, *options.arms) for seed in range(options.seeds)]
    return [(arm, seed) for arm, seed in runs if seed == 0 or arm != PARENT or options.parent == "trained"]


def _options() -> argparse.Namespace:
    options = _parser().parse_args()
    embedded = options.parent == "embedded"
    options.precision = options.precision or ("bf16" if options.device == "cuda" or embedded else "fp32")
    if options.arms is None:
        options.arms = [SCRATCH, *(arm for arm, growth in ARMS.items() if not (embedded and growth.carried))]
    if not embedded:
        options.parent_steps = options.parent_steps or 2 * options.steps
        return options
    if any(arm in ARMS and ARMS[arm].carried for arm in options.arms):
        raise SystemExit("the embedded model has no optimizer state to carry: leave the arm out, or --parent trained")
    options.parent_depth, options.parent_steps, options.width = EMBEDDED_DEPTH, None, None
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.grow", description=main.__doc__)
    parser.add_argument("--latents", type=Path, required=True, metavar="DIR", help="shards of encode_scenes")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--parent",
        choices=("trained", "embedded"),
        default="trained",
        help="a small one of each seed, or the package's",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="bf16 on a GPU and for the embedded model")
    parser.add_argument("--steps", type=int, default=700, help="of each deep model")
    parser.add_argument("--parent-steps", type=int, help="of the shallow one; twice as many if not given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=(SCRATCH, *ARMS), help="all, if not given")
    parser.add_argument("--parent-depth", type=int, default=6)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--only", metavar="ARM:SEED", help="train one run and write no report")
    parser.add_argument("--report", action="store_true", help="train nothing, report on what is there")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where the report goes, if not into --out")
    return parser


if __name__ == "__main__":
    main()

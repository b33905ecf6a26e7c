"""Models grown in every way against one trained from scratch: same depth, steps and data (SANA-1.5, depth growth)."""

import argparse
import json
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from recipes.emoji.grow_model import CaptionedVelocity, Scenes
from recipes.emoji.grow_report import write_report
from sana_train import FlowMatching, FlowValidation, TrainConfig, Trainer
from sana_train.growth import Init, grow_depth

PARENT, SCRATCH = "parent", "scratch"
STOPPED = 143  # what a shell says of a process that a SIGTERM ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """One way to begin deeper."""

    init: Init
    drop_last: int


ARMS = {
    "partial_preservation": Growth(init="partial_preservation", drop_last=2),
    "partial_preservation-0": Growth(init="partial_preservation", drop_last=0),
    "cyclic": Growth(init="cyclic", drop_last=2),
    "block_replication": Growth(init="block_replication", drop_last=2),
    "interleaved-0": Growth(init="interleaved", drop_last=0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """What all runs share."""

    latents: Path
    out: Path
    device: str
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
        model, facts = self._model(arm, seed)
        model.to(self.device)
        started = time.monotonic()
        try:
            if not self._trainer(model, folder, arm, seed).fit():
                raise SystemExit(STOPPED)
        except FloatingPointError as error:
            facts["failed"] = str(error)
        facts |= {"arm": arm, "seed": seed, "seconds": time.monotonic() - started}
        temporary = folder / f"result.{os.getpid()}"
        temporary.write_text(json.dumps(facts))
        temporary.replace(folder / "result.json")

    def _model(self, arm: str, seed: int) -> tuple[CaptionedVelocity, dict[str, Any]]:
        if arm in (PARENT, SCRATCH):
            depth = self.parent_depth if arm == PARENT else self.depth
            return CaptionedVelocity(depth=depth, width=self.width), {}
        weights = self.out / f"{PARENT}-{seed}" / "model" / "model.safetensors"
        if not (weights.parents[1] / "result.json").exists():
            raise SystemExit(f"{arm}:{seed} grows from {PARENT}:{seed}, which is not trained yet: run that first")
        model = CaptionedVelocity(depth=self.parent_depth, width=self.width)
        model.load_state_dict(load_file(weights))
        growth = ARMS[arm]
        _, plan = grow_depth(
            model.transformer, self.depth, drop_last=growth.drop_last, init=growth.init, seed=seed, progress=False
        )
        return model, {"change": plan.change}

    def _trainer(self, model: CaptionedVelocity, folder: Path, arm: str, seed: int) -> Trainer:
        parent = arm == PARENT
        batches = Scenes(self.latents, seed=2 * seed + parent, batch_size=self.batch_size)
        objective = FlowMatching(shift=3.0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        steps = self.parent_steps if parent else self.steps
        config = TrainConfig(
            run_dir=str(folder),
            steps=steps,
            seed=2 * seed + parent,
            warmup_steps=self.steps // 20,
            ema_decay=None,
            precision="bf16" if self.device == "cuda" else "fp32",
            spike_sigmas=None,  # an unstable run shall be seen to be one
            validate_every=max(1, steps // 20),
            checkpoint_every=max(1, steps // 4),
            keep_checkpoints=1,
            log_every=max(1, self.steps // 200),
            plots=False,
        )
        validation = FlowValidation(batches.held_out(), objective=objective, bins=4, batch_size=128)
        return Trainer.start_or_resume(model, objective, optimizer, batches, config, validation=validation)


def main() -> None:
    """Train every arm from every seed, or go on; then write growth-emoji.json and growth-emoji.png."""
    options = _parser().parse_args()
    names = [field for field in Experiment.__dataclass_fields__ if field != "parent_steps"]
    values = {name: getattr(options, name) for name in names}
    experiment = Experiment(**values, parent_steps=options.parent_steps or 2 * options.steps)
    # Captions are short: attention by plain matrix products trains a quarter faster on a CPU than the flash kernel.
    with sdpa_kernel(SDPBackend.MATH) if options.device == "cpu" else nullcontext():
        for arm, seed in [] if options.report else _runs(options):
            print(f"{arm}:{seed}", flush=True)
            experiment.run(arm, seed)
    if options.only is None:
        settings = values | {"parent_steps": experiment.parent_steps}
        print(write_report(experiment.out, settings=settings, results=options.results or experiment.out))


def _runs(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Arm by arm, so that those which are there when time runs out have all seeds."""
    if options.only:
        arm, _, seed = options.only.partition(":")
        if arm not in (PARENT, SCRATCH, *ARMS) or not seed.isdecimal():
            raise SystemExit(f"--only {options.only} is no ARM:SEED; arms are {', '.join((PARENT, SCRATCH, *ARMS))}")
        return [(arm, int(seed))]
    return [(arm, seed) for arm in (PARENT, *options.arms) for seed in range(options.seeds)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.grow", description=main.__doc__)
    parser.add_argument("--latents", type=Path, required=True, metavar="DIR", help="shards of encode_scenes")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=700, help="of each deep model")
    parser.add_argument("--parent-steps", type=int, help="of the shallow one; twice as many if not given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=(SCRATCH, *ARMS), default=[SCRATCH, *ARMS])
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

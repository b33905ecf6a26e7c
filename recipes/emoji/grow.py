"""Models grown in every way against one trained from scratch: same depth, steps and data (SANA-1.5, depth growth)."""

import argparse
import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from recipes.emoji.grow_experiment import ARMS, PARENT, SCRATCH, Experiment, Settings
from recipes.emoji.grow_report import write_report
from recipes.emoji.run_folder import claim
from recipes.emoji.train_transformer import EMOJI_TRANSFORMER


def main() -> None:
    """Train every arm from every seed, or go on; then write growth-emoji.json (growth-embedded.json) and a plot."""
    options = _options()
    settings = _settings(options)
    if options.report:
        settings = Settings(**json.loads((options.out / "settings.json").read_text()))
    claim(options.out, settings)
    # Captions are short: attention by plain matrix products trains a quarter faster on a CPU than the flash kernel.
    with sdpa_kernel(SDPBackend.MATH) if options.device == "cpu" else nullcontext():
        if not options.report:
            experiment = Experiment(settings, latents=options.latents, out=options.out, device=options.device)
            for arm, seed in _runs(options):
                print(f"{arm}:{seed}", flush=True)
                experiment.run(arm, seed)
    if options.only is None:
        path = (
            options.results or options.out
        ) / f"growth-{'embedded' if settings.parent == 'embedded' else 'emoji'}.json"
        print(write_report(options.out, settings=asdict(settings), device=options.device, path=path))


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
    if options.arms is None:
        options.arms = [SCRATCH, *(arm for arm, growth in ARMS.items() if not (embedded and growth.carried))]
    if embedded and any(arm in ARMS and ARMS[arm].carried for arm in options.arms):
        raise SystemExit("the embedded model has no optimizer state to carry: leave the arm out, or --parent trained")
    return options


def _settings(options: argparse.Namespace) -> Settings:
    embedded = options.parent == "embedded"
    return Settings(
        parent=options.parent,
        precision=options.precision or ("bf16" if options.device == "cuda" or embedded else "fp32"),
        steps=options.steps,
        parent_steps=None if embedded else options.parent_steps or 2 * options.steps,
        parent_depth=EMOJI_TRANSFORMER.num_layers if embedded else options.parent_depth,
        depth=options.depth,
        width=None if embedded else options.width,
        batch_size=options.batch_size,
        lr=options.lr,
    )


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

"""sana prune: a model with fewer blocks, and a report on what that costs it."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sana.choices import Selector
from sana.commands.drawing_options import CfgOption
from sana.commands.file_checks import check_input
from sana.commands.messages import RERUN, messages
from sana.commands.options import DeviceOption, JsonOption, ProgressOption

if TYPE_CHECKING:
    from sana.pruning.pruned_pipeline import Pruned


def prune(
    source: Annotated[str, typer.Argument(metavar="SRC", help='Pipeline folder, Hub id or "embedded".')],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="A new pipeline folder, with a report in pruning/.")
    ],
    keep: Annotated[int | None, typer.Option(min=1, help="How many blocks to keep.")] = None,
    blocks: Annotated[
        str | None, typer.Option(metavar="I,I...", help="Which blocks to keep, instead of --keep.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="Repeat what this plan.json says.")] = None,
    selector: Annotated[Selector, typer.Option(help="How blocks are chosen.")] = "importance",
    importance: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take the scores from a plan.json or JSON list, instead of measuring."),
    ] = None,
    protect_head: Annotated[int, typer.Option(min=0, help="Number of first blocks that always stay.")] = 0,
    protect_tail: Annotated[int, typer.Option(min=0, help="Number of last blocks that always stay.")] = 0,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts to calibrate with, one per line; 100 of ours if left out."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the calibration's first image, and of random blocks.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of denoising steps in the calibration.")] = None,
    cfg: CfgOption = None,
    recover: Annotated[
        str | None,
        typer.Option(
            metavar="STEPS|RUN.toml",
            help="Then train: this many steps on the calibration's images, or as a run file of `sana train` says.",
        ),
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Remove the blocks of a model that matter least to the images it draws."""
    with messages(to_resume=RERUN if recover else "", progress=progress):
        if (destination / "model_index.json").exists():
            raise ValueError(f"{destination} holds a pipeline already: give a new folder")
        if sum(option is not None for option in (keep, blocks, plan)) != 1:
            raise ValueError("give one of --keep (a number), --blocks (a list) and --plan (a file)")
        if plan is not None and (selector != "importance" or importance or protect_head or protect_tail):
            raise ValueError("--plan says which blocks stay: leave --selector, --importance and --protect-... out")
        for file, option, content in (
            (plan, "--plan", "a plan.json that a pruning wrote"),
            (importance, "--importance", "a plan.json that a pruning wrote, or a JSON list of scores"),
            (calibrate, "--calibrate", "a text file with a prompt per line"),
        ):
            if file is not None:
                check_input(file, option, content)
        from sana.pipeline import SanaPipeline
        from sana.pruning.calibration import Calibration, calibration_prompts, read_prompts
        from sana.pruning.choice import Choice, read_scores
        from sana.pruning.pruned_pipeline import PruneRequest, prune_folder

        choice = Choice(
            keep=keep if keep is not None else _numbers(blocks),
            selector=selector,
            protect_head=protect_head,
            protect_tail=protect_tail,
            seed=seed,
            scores=None if importance is None else read_scores(importance),
        )
        prompts = calibration_prompts(source) if calibrate is None else read_prompts(calibrate)
        pipeline = SanaPipeline.from_pretrained(source, device=device)
        used_steps, scale = pipeline.settings(steps, cfg)
        calibration = Calibration(prompts=tuple(prompts), seed=seed, steps=used_steps, guidance_scale=scale)
        request = PruneRequest(
            choice=choice if plan is None else plan, calibration=calibration, recover=recover, source=source
        )
        done = prune_folder(pipeline, destination, request, progress=progress)
        _print(done, destination, as_json=as_json)


def _numbers(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise ValueError(f"--blocks is {text!r}; give whole numbers separated by commas, such as 0,1,7") from None


def _print(done: "Pruned", destination: Path, *, as_json: bool) -> None:
    if as_json:
        stages = [dataclasses.asdict(stage) for stage in done.stages]
        print(
            json.dumps({"folder": str(destination), "plan": dataclasses.asdict(done.plan), "stages": stages}, indent=2)
        )
        return
    print(f"removed {', '.join(map(str, done.plan.removed)) or 'none'} ({done.plan.selector})")
    for stage in done.stages:
        print(f"{stage.name:<24} {stage.cost.blocks:>3} blocks  velocity error {stage.scores['velocity error']:.4f}")
    print(destination)

"""sana grow: a deeper model that begins where a shallower one is."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana.choices import InitName
from sana.commands.messages import messages
from sana.commands.options import JsonOption, ProgressOption
from sana.commands.training_runs import trainer_errors

if TYPE_CHECKING:
    from sana.growing import Growth
    from sana_train import GrowthPlan


def grow(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Model (folder, .safetensors, .pth, Hub id or name), or folder of a training run."
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="A new folder; the plan is written there as growth.json.")
    ],
    depth: Annotated[int | None, typer.Option(help="Number of blocks of the grown model.")] = None,
    drop_last: Annotated[
        int | None, typer.Option(help="Number of the source's last blocks to leave out; 2 if left out.")
    ] = None,
    init: Annotated[
        InitName | None, typer.Option(help="How new blocks are initialized; partial_preservation if left out.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed of the new blocks; 0 if left out.")] = None,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="Repeat what this growth.json says.")] = None,
    check: Annotated[bool, typer.Option(help="Measure what growing changes, in float32 and bfloat16.")] = True,
    as_json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Add blocks to a model: sana grow SRC DST --depth 60 is SANA-1.5's step from 1.6B to 4.8B.

    Growing a training run grows its weights, their average and the optimizer's state; see the section `growth` of a
    run file.
    """
    with messages(progress=progress):
        options = {"depth": depth, "drop_last": drop_last, "init": init, "seed": seed}
        given = {name: value for name, value in options.items() if value is not None}
        made = _grown(source, destination, _growth(given, plan, check=check), progress=progress)
        if as_json:
            print(json.dumps({"folder": str(destination), **dataclasses.asdict(made)}, indent=2))
        else:
            _print(made, destination, measured="when the plan was made" if plan else "now")


def _grown(source: str, destination: Path, growth: "Growth | GrowthPlan", *, progress: bool) -> "GrowthPlan":
    from sana.growing import Growth, grow_checkpoint
    from sana.growing_runs import grow_training_run, is_run

    if not is_run(source):
        return grow_checkpoint(source, destination, growth, progress=progress)
    if not isinstance(growth, Growth):
        raise ValueError(f"--plan is given and {source} is a training run, which makes a plan of its own: give --depth")
    with trainer_errors():
        return grow_training_run(source, destination, growth, progress=progress)


def _growth(given: dict[str, Any], plan: Path | None, *, check: bool) -> "Growth | GrowthPlan":
    from sana.growing import Growth
    from sana_train import GrowthPlan

    if plan is not None:
        if given:
            names = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ValueError(f"{names} given with --plan, which says all of it: leave one of the two out")
        return GrowthPlan.load(plan)
    if "depth" not in given:
        raise ValueError("--depth is missing: give the number of blocks of the grown model, or a --plan")
    return Growth(**given, check=check)


def _print(plan: "GrowthPlan", destination: Path, *, measured: str) -> None:
    print(
        f"{plan.depth} blocks -> {len(plan.sources)}: {len(plan.staying)} stay, {plan.drop_last} dropped, "
        f"{len(plan.new)} new ({plan.init}, seed {plan.seed})"
    )
    if plan.change is not None:
        numbers = ", ".join(f"{value:.3g} in {name}" for name, value in plan.change.items())
        print(f"max |dy| {numbers}, measured {measured}: {_meaning(plan)}")
    print(destination)


def _meaning(plan: "GrowthPlan") -> str:
    if plan.preserves:
        return "the same function, bit for bit"
    if plan.drop_last:
        return "another function until it is trained, since blocks were dropped"
    return f"another function until it is trained, since {plan.init} repeats blocks"

"""sana train: train a transformer as a TOML file says, or tell what that would take."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana.commands.messages import messages
from sana.commands.options import (
    AllowChangesOption,
    ChangesOption,
    DeviceOption,
    JsonOption,
    ProgressOption,
    ResumeOption,
)
from sana.commands.training_runs import RESUMED, STOPPED, check_new_run, trainer_errors

if TYPE_CHECKING:
    from sana.training.plan import TrainingPlan

_PREFIXES = {"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}
_BYTES = ("GB", "MB", "kB")


def train(
    run: Annotated[Path, typer.Argument(metavar="RUN.toml", help="What to train, on what, and how.")],
    changes: ChangesOption = None,
    resume: ResumeOption = False,
    allow_changes: AllowChangesOption = False,
    verify: Annotated[bool, typer.Option("--verify", help="First check the hash of every shard.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print memory, FLOPs and schedule; train nothing.")] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="GPUs to plan for; by default WORLD_SIZE if torchrun set it, else 1.")
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Train a transformer; on several GPUs: torchrun --nproc-per-node 8 --no-python sana train RUN.toml."""
    with messages(to_resume="" if plan else RESUMED, progress=progress), _logged_warnings():
        if allow_changes and not resume:
            raise ValueError("--allow-changes is given without --resume: a new run has nothing to differ from")
        from sana.training.cascade import is_cascade

        if plan:
            if verify:
                raise ValueError("--verify is given with --plan, which reads no shard: leave one out")
            _plan(run, changes or (), processes or int(os.environ.get("WORLD_SIZE", 1)), as_json=as_json)
            return
        if processes is not None or as_json:
            raise ValueError("--processes and --json go with --plan; torchrun says how many processes train")
        if not progress:
            changes = [*(changes or ()), "train.progress=false"]
        with trainer_errors():
            job = _train_cascade if is_cascade(run) else _train
            finished = job(run, changes or (), device, resume=resume, allow_changes=allow_changes, verify=verify)
    # torchrun takes any other status for a failure, and would start the run again.
    if not finished and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise typer.Exit(STOPPED)


def _train(
    run: Path, changes: Sequence[str], device: str | None, *, resume: bool, allow_changes: bool, verify: bool
) -> bool:
    from sana.devices import usable_device
    from sana.kernels import use_kernels
    from sana.training.run import make_trainer
    from sana.training.settings_reading import read_settings
    from sana.training.shard_stamps import verify_folder
    from sana_train import process_group

    settings = read_settings(run, changes)
    folder = Path(settings.train.run_dir)
    check_new_run(folder, resume=resume, option="train.run_dir")
    with process_group():
        if verify:
            verify_folder(settings.data.shards, progress=settings.train.progress)
        trainer = make_trainer(settings, device=usable_device(device), resume=resume, allow_changes=allow_changes)
        with use_kernels(settings.model.kernels):
            finished = trainer.fit()
        _say(folder / "model" if finished else f"stopped at step {trainer.step:,}: resume with --resume")
    return finished


def _train_cascade(
    run: Path, changes: Sequence[str], device: str | None, *, resume: bool, allow_changes: bool, verify: bool
) -> bool:
    from sana.devices import usable_device
    from sana.training.cascade import read_cascade
    from sana.training.cascade_run import train_cascade
    from sana.training.shard_stamps import verify_folder
    from sana_train import process_group

    cascade = read_cascade(run, changes)
    with process_group():
        # The shards of a finished stage may be gone: a folder without any is none to verify.
        for folder in dict.fromkeys(stage.settings.data.shards for stage in cascade.stages) if verify else ():
            verify_folder(folder, progress=cascade.stages[0].settings.train.progress)
        stopped = train_cascade(cascade, device=usable_device(device), resume=resume, allow_changes=allow_changes)
        last = Path(cascade.stages[-1].settings.train.run_dir)
        _say(last / "model" if stopped is None else f"stopped in stage {stopped}: resume with --resume")
    return stopped is None


def _say(text: object) -> None:
    from sana_train.distributed import rank

    if rank() == 0:
        print(text)


def _plan(run: Path, changes: Sequence[str], processes: int, *, as_json: bool) -> None:
    from sana.training.cascade import is_cascade, planned, read_cascade
    from sana.training.plan import plan_training
    from sana.training.settings_reading import read_settings

    if not is_cascade(run):
        plan = plan_training(read_settings(run, changes), processes=processes)
        print(json.dumps(_as_json(plan), indent=2)) if as_json else _print_plan(plan)
        return
    stages = planned(read_cascade(run, changes))
    plans = {stage.name: plan_training(stage.settings, processes=processes) for stage in stages}
    if as_json:
        print(json.dumps({"stages": [{"name": name} | _as_json(plan) for name, plan in plans.items()]}, indent=2))
        return
    for name, plan in plans.items():
        print(f"\nstage {name}")
        _print_plan(plan)
    images = [stage.settings.train.steps * stage.settings.data.batch_size for stage in stages]
    flops = sum(count * plan.flops_per_image for count, plan in zip(images, plans.values(), strict=True))
    print(f"\nall stages: {sum(images):,} images, {_amount(flops, 'EFLOP', 'PFLOP', 'TFLOP', 'GFLOP', 'MFLOP')}")


def _as_json(plan: "TrainingPlan") -> dict[str, Any]:
    return dataclasses.asdict(plan) | {"memory_per_gpu": plan.memory_per_gpu}


def _print_plan(plan: "TrainingPlan") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, 120)
    facts = Table(show_header=False, box=None, pad_edge=False)
    for name, line in plan.lines.items():
        facts.add_row(name, line)
    console.print(facts)
    memory = Table()
    memory.add_column("memory per GPU")
    unit = _unit(plan.memory_per_gpu, *_BYTES)
    memory.add_column(unit, justify="right")
    for name, count in plan.memory.items():
        memory.add_row(name, f"{count / _PREFIXES[unit[0]]:,.2f}")
    memory.add_section()
    memory.add_row("together", f"{plan.memory_per_gpu / _PREFIXES[unit[0]]:,.2f}")
    console.print(memory)
    flops = _amount(plan.flops_per_image, "TFLOP", "GFLOP", "MFLOP")
    console.print(f"{plan.parameters:,} parameters, {flops} an image and step")
    if plan.offloaded:
        console.print(f"{_amount(plan.offloaded, *_BYTES)} of CPU memory for the weight average")
    for warning in plan.warnings:
        typer.secho(f"warning: {warning}", fg="yellow", err=True)


def _amount(count: float, *units: str) -> str:
    unit = _unit(count, *units)
    return f"{count / _PREFIXES[unit[0]]:,.2f} {unit}"


def _unit(count: float, *units: str) -> str:
    """The first of the units, largest first, of which there is at least one; otherwise the last."""
    return next((unit for unit in units if count >= _PREFIXES[unit[0]]), units[-1])


@contextmanager
def _logged_warnings() -> Iterator[None]:
    """What the trainer logs, such as a damaged checkpoint that is passed over, in the form of the other messages."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger = logging.getLogger("sana_train")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)

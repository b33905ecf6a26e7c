"""sana judge-train: teach a judge from labelled images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sana.commands.messages import messages
from sana.commands.options import DeviceOption, JsonOption, ProgressOption, ResumeOption
from sana.commands.training_runs import RESUMED, STOPPED, check_new_run, trainer_errors

if TYPE_CHECKING:
    from sana.training.judge_run import JudgeRun, JudgeTrained

RANK = 16


def judge_train(
    data: Annotated[Path, typer.Argument(metavar="DATA.jsonl", help="JSON lines with prompt, image and label.")],
    base: Annotated[str, typer.Option(metavar="DIR|REPO", help="The VILA judge to start from.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run; the judge will be in DIR/judge.")],
    lora: Annotated[int | None, typer.Option(min=1, help=f"Rank of the low-rank updates; {RANK} if left out.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Train all weights instead of low-rank updates.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Number of optimizer steps.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 16,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate; if left out 1e-4 for low-rank updates, 2e-5 for all weights.")
    ] = None,
    pairwise: Annotated[float, typer.Option(min=0, help="Weight of the loss between images of the same prompt.")] = 0.0,
    validation_share: Annotated[
        float, typer.Option(help="Share of the prompts held back for calibration and for the report.")
    ] = 0.1,
    max_tiles: Annotated[
        int | None, typer.Option(min=1, help="Largest number of tiles per image; the judge's own limit if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Number of processes that read images ahead.")] = 0,
    resume: ResumeOption = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Train a judge to say yes to images that show their prompt; DIR/report.json says how well it does."""
    with messages(to_resume=RESUMED, progress=progress):
        if full and lora is not None:
            raise ValueError(f"--full and --lora {lora} exclude each other: give one of them")
        from sana.training.judge_run import JudgeRun

        run = JudgeRun(
            data=data,
            base=base,
            out=out,
            lora=None if full else lora or RANK,
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            pairwise=pairwise,
            validation_share=validation_share,
            max_tiles=max_tiles,
            seed=seed,
            workers=workers,
            progress=progress,
        )
        trained = _train(run, device, resume=resume)
    if not trained.finished:
        typer.echo(f"stopped: resume with --resume ({out})")
        raise typer.Exit(STOPPED)
    for warning in trained.warnings:
        typer.secho(f"warning: {warning}", fg="yellow", err=True)
    _print_report(trained, as_json=as_json)


def _train(run: "JudgeRun", device: str | None, *, resume: bool) -> "JudgeTrained":
    from sana.devices import usable_device
    from sana.training.judge_run import train_judge

    check_new_run(run.out, resume=resume, option="--out")
    with trainer_errors(remedy="start anew with another --out"):  # there is no --allow-changes here
        return train_judge(run, device=usable_device(device), resume=resume)


def _print_report(trained: "JudgeTrained", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(trained.report, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    columns = ("examples", "auc", "per_prompt_auc", "accuracy", "calibration_error")
    table.add_column("task")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for task, numbers in [*trained.report["tasks"].items(), ("all", trained.report)]:
        table.add_row(task, *(_cell(numbers[column]) for column in columns))
    console = Console()
    console.width = max(console.width, 100)
    console.print(table)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"

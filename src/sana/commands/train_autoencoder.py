"""sana train-autoencoder: one phase of a DC-AE's training, as a TOML file says."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sana.commands.messages import messages
from sana.commands.train import STOPPED

if TYPE_CHECKING:
    from sana.autoencoder_settings import AutoencoderRun


def train_autoencoder(
    run: Annotated[Path, typer.Argument(metavar="RUN.toml", help="What to train, on what, and how.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace a setting; may repeat.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, if there is one.")
    ] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Resume even with settings that change the result.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="Such as cuda or cpu.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train an autoencoder through one of DC-AE's three phases; its model is the init of the next."""
    with messages():
        if allow_changes and not resume:
            raise ValueError("--allow-changes is given without --resume: a new run has nothing to differ from")
        from sana.autoencoder_settings import read_autoencoder_run

        settings = read_autoencoder_run(run, changes or ())
        shown = dataclasses.replace(settings.train, progress=settings.train.progress and progress)
        finished = _train(
            dataclasses.replace(settings, train=shown), device, resume=resume, allow_changes=allow_changes
        )
    # torchrun takes any other status for a failure, and would start the run again.
    if not finished and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise typer.Exit(STOPPED)


def _train(run: "AutoencoderRun", device: str | None, *, resume: bool, allow_changes: bool) -> bool:
    from sana.autoencoder_training import make_autoencoder_trainer, write_scaling_factor
    from sana.stages import usable_device
    from sana_train import CheckpointError, RunInUseError, process_group

    folder = Path(run.train.run_dir)
    if not resume and any(folder.glob("checkpoints/step-*")):
        raise ValueError(f"{folder} holds a run: add --resume to go on with it, or give another train.run_dir")
    place = usable_device(device)
    try:
        with process_group():
            trainer = make_autoencoder_trainer(run, device=place, resume=resume, allow_changes=allow_changes)
            finished = trainer.fit()
    except (CheckpointError, RunInUseError, ImportError) as error:  # ImportError: an extra that is not installed
        raise ValueError(str(error)) from error
    if int(os.environ.get("RANK", 0)) != 0:
        return finished
    if not finished:
        print(f"stopped at step {trainer.step:,}: go on with --resume")
        return False
    factor = write_scaling_factor(run, device=place)
    print(f"{folder / 'model'}\nlatents times {factor:g} have a standard deviation of 1")
    return True

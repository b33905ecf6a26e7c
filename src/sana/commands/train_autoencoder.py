"""sana train-autoencoder: one phase of a DC-AE's training, as a TOML file says."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sana.commands.messages import messages
from sana.commands.training_runs import RESUMED, STOPPED, check_new_run, trainer_errors

if TYPE_CHECKING:
    from sana.training.autoencoder_settings import AutoencoderRun


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
    with messages(goes_on=RESUMED):
        if allow_changes and not resume:
            raise ValueError("--allow-changes is given without --resume: a new run has nothing to differ from")
        from sana.training.autoencoder_settings import read_autoencoder_run

        settings = read_autoencoder_run(run, changes or ())
        shown = dataclasses.replace(settings.train, progress=settings.train.progress and progress)
        finished = _train(
            dataclasses.replace(settings, train=shown), device, resume=resume, allow_changes=allow_changes
        )
    # torchrun takes any other status for a failure, and would start the run again.
    if not finished and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise typer.Exit(STOPPED)


def _train(run: "AutoencoderRun", device: str | None, *, resume: bool, allow_changes: bool) -> bool:
    from sana.devices import usable_device
    from sana.training.autoencoder_run import make_autoencoder_trainer, write_scaling_factor
    from sana_train import process_group

    folder = Path(run.train.run_dir)
    check_new_run(folder, resume=resume, option="train.run_dir")
    place = usable_device(device)
    with trainer_errors(), process_group():
        trainer = make_autoencoder_trainer(run, device=place, resume=resume, allow_changes=allow_changes)
        finished = trainer.fit()
    if int(os.environ.get("RANK", 0)) != 0:
        return finished
    if not finished:
        print(f"stopped at step {trainer.step:,}: go on with --resume")
        return False
    factor = write_scaling_factor(run, device=place)
    print(f"{folder / 'model'}\nlatents times {factor:g} have a standard deviation of 1")
    return True

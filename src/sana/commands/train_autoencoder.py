"""sana train-autoencoder: one phase of a DC-AE's training, as a TOML file says."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sana.commands.messages import messages
from sana.commands.options import AllowChangesOption, ChangesOption, DeviceOption, ProgressOption, ResumeOption
from sana.commands.training_runs import RESUMED, STOPPED, check_new_run, trainer_errors

if TYPE_CHECKING:
    from sana.training.autoencoder_settings import AutoencoderRun


def train_autoencoder(
    run: Annotated[Path, typer.Argument(metavar="RUN.toml", help="What to train, on what, and how.")],
    changes: ChangesOption = None,
    resume: ResumeOption = False,
    allow_changes: AllowChangesOption = False,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Train an autoencoder through one of DC-AE's three phases; the next phase starts from its model."""
    with messages(to_resume=RESUMED, progress=progress):
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
    from sana_train.distributed import rank

    folder = Path(run.train.run_dir)
    check_new_run(folder, resume=resume, option="train.run_dir")
    on = usable_device(device)
    with trainer_errors(), process_group():
        trainer = make_autoencoder_trainer(run, device=on, resume=resume, allow_changes=allow_changes)
        finished, is_first = trainer.fit(), rank() == 0
    if not is_first:
        return finished
    if not finished:
        print(f"stopped at step {trainer.step:,}: resume with --resume")
        return False
    factor = write_scaling_factor(run, device=on)
    print(f"{folder / 'model'}\nlatents times {factor:g} have a standard deviation of 1")
    return True

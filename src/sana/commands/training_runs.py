"""What the commands that train say of a run: one that exists already, one that was stopped, one that is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RESUMED = "add --resume to continue from the newest checkpoint, or to start over if there is none"
STOPPED = 143  # what a shell says of a process that a SIGTERM ended


def check_new_run(folder: Path, *, resume: bool, option: str) -> None:
    """Raise ValueError where a new run would go into the folder of another; `option` is what names the folder."""
    if not resume and any(folder.glob("checkpoints/step-*")):
        raise ValueError(f"{folder} holds a run: add --resume to continue it, or give another {option}")


@contextmanager
def trainer_errors(*, remedy: str = "add --allow-changes") -> Iterator[None]:
    """What a user can mend, in the form of the other messages; `remedy` stands for the library's own argument."""
    from sana_train import CheckpointError, RunInUseError

    try:
        yield
    except (CheckpointError, RunInUseError, ImportError) as error:  # ImportError: an extra that is not installed
        raise ValueError(str(error).replace("pass allow_changes=True", remedy)) from error

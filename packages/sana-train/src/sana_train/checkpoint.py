"""Checkpoints of a run: written whole or not at all, read back without executing anything."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class CheckpointError(RuntimeError):
    """A run cannot be resumed from what is on disk; the message says what was found and what to do."""


def save_checkpoint(folder: Path, state: dict[str, Any], *, step: int, keep: int) -> Path:
    """Write `state` as the checkpoint of `step`, then remove all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def load_newest_checkpoint(folder: Path) -> dict[str, Any]:
    """The state of the newest readable checkpoint; a damaged one is passed over for the one before it.

    Raises:
        CheckpointError: there is none, or none can be read.
    """
    damage = []
    for path in reversed(list_checkpoints(folder)):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            damage.append(f"{path.name}: {type(error).__name__}")
        else:
            return state
    if damage:
        raise CheckpointError(f"no checkpoint in {folder} can be read ({'; '.join(damage)}): start a new run")
    raise CheckpointError(f"{folder} holds no checkpoint: start the run with Trainer(...).fit()")


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, then put it in the place of `folder`.

    A folder cannot be exchanged in one step everywhere: killed between the two renames, the old one is left beside as
    `<name>.old`, whole.
    """
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    write(new)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)

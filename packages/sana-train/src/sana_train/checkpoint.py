"""Checkpoints of a run: written whole or not at all, read back without executing anything."""

import os
import shutil
import zipfile
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
            return _read(path)
        except Exception as error:  # a damaged pickle can raise anything
            damage.append(f"{path.name}: {type(error).__name__}")
    if damage:
        raise CheckpointError(f"no checkpoint in {folder} can be read ({'; '.join(damage)}): start a new run")
    raise CheckpointError(f"{folder} holds no checkpoint: start the run with Trainer(...).fit()")


def _read(path: Path) -> dict[str, Any]:
    """One checkpoint, every byte of whose tensors has its checksum: torch.load itself does not look at them."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} is damaged")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, then put it in the place of `folder`.

    A folder cannot be exchanged in one step everywhere: killed between the two renames, the old one is left beside as
    `<name>.old`, whole. The new one grows inside `<name>.new`, together with whatever `write` stages beside it.
    """
    staging, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(staging, ignore_errors=True)
    new = staging / folder.name
    new.mkdir(parents=True)
    write(new)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(staging, ignore_errors=True)

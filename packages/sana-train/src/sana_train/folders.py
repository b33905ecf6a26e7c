"""Files and folders that are on the disk when a call returns, and exchanged whole or not at all."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, then put it in the place of `folder`.

    A folder cannot be exchanged in one step everywhere: killed between the two renames, the old one is left beside as
    `<name>.old`, whole. The new one grows inside `<name>.new`, together with whatever `write` stages beside it. Where
    `write` fails, `folder` stays as it was.
    """
    staging, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(staging, ignore_errors=True)
    new = staging / folder.name
    new.mkdir(parents=True)
    try:
        write(new)
        sync_folder(new)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def replacing(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """Yield the path of a file to be written, which then takes the place of `path`.

    Readers see the old file or the new one, and a failed write leaves the old one. Where the caller is `alone` in
    writing it, by a lock, what a killed writer has left is written over.
    """
    staging = path.with_name(f".{path.name}.tmp" if alone else f".{path.name}.{os.getpid()}.tmp")
    try:
        yield staging
        sync(staging)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
    sync(path.parent)


def replace_file(path: Path, content: bytes, *, alone: bool = False) -> None:
    """Let `path` hold `content`, as `replacing` does."""
    with replacing(path, alone=alone) as staging:
        staging.write_bytes(content)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and have it on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have every file and folder below `folder`, and itself, on the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk."""
    if os.name == "nt":  # Windows opens no folder, and syncs nothing that is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

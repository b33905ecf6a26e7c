"""The manifest of a checkpoint: the size and sha256 of every file, and the marker that says it is complete."""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from sana_train.folders import sync, write_synced

MANIFEST, COMMIT = "manifest.json", "COMMIT"


class Entry(TypedDict):
    """A file's size in bytes and sha256 in hexadecimal."""

    size: int
    sha256: str


def entries(paths: Iterable[Path]) -> dict[str, Entry]:
    """The entries of files, by their names."""
    paths = list(paths)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter lock
        return {path.name: {"size": s, "sha256": h} for path, (s, h) in zip(paths, pool.map(_read, paths), strict=True)}


def commit(folder: Path, files: dict[str, Entry]) -> None:
    """Write the manifest of `folder`, then the marker, which holds the manifest's own sha256.

    Raises:
        OSError: a file is not in `folder`, or it cannot be written.
    """
    for name, entry in files.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != entry["size"]:
            raise FileNotFoundError(f"{name} is not in {folder} as it was written: do all nodes share this folder?")
    manifest = json.dumps({"files": files}, indent=1, sort_keys=True).encode()
    write_synced(folder / MANIFEST, manifest)
    sync(folder)  # the marker must never be on the disk before the rest
    write_synced(folder / COMMIT, hashlib.sha256(manifest).hexdigest().encode())
    sync(folder)


def damage(folder: Path) -> str | None:
    """What is wrong with `folder`, or None if every file is as it was committed."""
    for name in (COMMIT, MANIFEST):
        if not (folder / name).is_file():
            return f"it has no {name}"
    manifest = (folder / MANIFEST).read_bytes()
    if hashlib.sha256(manifest).hexdigest().encode() != (folder / COMMIT).read_bytes():
        return f"{MANIFEST} is not what {COMMIT} says"
    files: dict[str, Entry] = json.loads(manifest)["files"]
    for name, entry in files.items():  # sizes first: reading everything takes a while
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (size := (folder / name).stat().st_size) != entry["size"]:
            return f"{name} has {size} bytes instead of {entry['size']}"
    found = entries(folder / name for name in files)
    return next((f"{name} has changed: its sha256 is another" for name in files if found[name] != files[name]), None)


def _read(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()

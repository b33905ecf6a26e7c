"""A folder of results: of one set of settings, gone on with after a kill, its files whole or not there."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any


def digest(folder: Path) -> str:
    """A folder's name and its `weights_hash`."""
    return f"{folder.name} {weights_hash(folder)}"


def weights_hash(folder: Path) -> str:
    """The first 12 digits of the SHA-256 of the weights in a folder."""
    weights = sorted(folder.rglob("*.safetensors"))
    if not weights:
        raise FileNotFoundError(f"{folder} holds no .safetensors: train it first (see recipes/emoji/README.md)")
    sums = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in weights)
    return hashlib.sha256(sums.encode()).hexdigest()[:12]


def claim(out: Path, settings: Any) -> None:
    """Make `out` the folder of these settings, a dataclass; ValueError where it is that of others."""
    path, now = out / "settings.json", json.loads(json.dumps(dataclasses.asdict(settings)))
    if not path.exists():
        write_json(path, now)
    then = json.loads(path.read_text())
    if changed := [f"{name} {then.get(name)!r} -> {now[name]!r}" for name in now if then.get(name) != now[name]]:
        raise ValueError(f"{out} holds results of other settings ({', '.join(changed)}): use another folder")


def finished_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines; one that a kill has cut in half is removed."""
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Add a line of JSON and have it on the disk."""
    with path.open("a") as file:
        file.write(json.dumps(content, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any, *, indent: int = 1) -> None:
    """Replace a file by `content`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.write(json.dumps(content, indent=indent, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

"""Who draws and judges in a run directory: written down once, and the same whenever the run goes on."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sana.catalog import EMBEDDED, locate
from sana.judges import EMBEDDED_JUDGE
from sana.sampler import Drawing
from sana_scale.files import FileLock, write_json

MADE_BY = "made-by.json"
# What runs used that were begun before these were recorded.
BEFORE: dict[str, Any] = {"kernels": "reference", "loras": [], "revision": None}
# Of a checkpoint: weights, configurations and calibrations, tokenizers and chat templates. Not its README.
CONTENTS = (".safetensors", ".bin", ".pth", ".json", ".txt", ".jinja", ".model")


def claim_run(run_dir: Path, drawing: Drawing, judge: str) -> None:
    """Write down who draws and judges in a run directory, or check that it is who did so before.

    Folders are known by a hash of their contents as well; models on the Hub are known by name.

    Raises:
        ValueError: it was another model, other settings or another judge; or `run_dir` is a file.
        RunInUseError: another process drives it.
    """
    here = {"judge": judge, "model": drawing.model, "revision": drawing.revision, **drawing.options}
    here |= drawing.numerics
    here |= {"loras": [[source, scale, _contents(source)] for source, scale in drawing.loras]}
    judge_folder = str(EMBEDDED_JUDGE) if judge == EMBEDDED else judge
    here |= {
        "model_contents": _contents(str(locate(drawing.model)[0])),
        "judge_contents": _contents(judge_folder),
    }
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"--run-dir {run_dir} is a file: give a folder, or the name of a new one")
    run_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(run_dir / "lock", purpose=f"the run directory {run_dir}"):
        path = run_dir / MADE_BY
        if not path.exists():
            write_json(path, here)
        there = BEFORE | json.loads(path.read_text(encoding="utf-8"))
    if changed := [name for name in here if there.get(name) != here[name]]:
        facts = ", ".join(f"{name} was {there.get(name)!r} and is now {here[name]!r}" for name in changed)
        raise ValueError(f"{run_dir} was made with other settings: {facts}. Choose another --run-dir")


def _contents(name: str) -> str | None:
    """A hash of a checkpoint, whose name may follow a kind of judge; None for what is not on this machine."""
    path = next((Path(part) for part in (name, name.partition(":")[2]) if part and Path(part).exists()), None)
    if path is None:
        return None
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.suffix in CONTENTS and file.is_file():
            with file.open("rb") as opened:
                digest.update(
                    f"{file.relative_to(path)} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode()
                )
    return digest.hexdigest()[:16]

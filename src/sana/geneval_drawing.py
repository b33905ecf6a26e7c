"""GenEval's folders drawn from its prompts, to be stopped at any time (Ghosh et al., 2023)."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from sana.png import save_png
from sana_judge.geneval import save_prompt
from sana_scale.files import write_json

DRAWING = "drawing.json"

Draw = Callable[[Sequence[str], Sequence[int]], Sequence[Image.Image]]


def draw_geneval(
    draw: Draw,
    metadata: Sequence[Mapping[str, Any]],
    directory: Path,
    *,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    batch_size: int = 8,
    progress: bool = True,
) -> None:
    """Draw the pictures of every prompt into DIR/00000/samples/00000.png, ..., as `sana evaluate geneval` reads them.

    Called again, it goes on with the prompts that are not finished. Prompts are put into batches by their number, so
    that a stop changes no picture.

    Args:
        draw: pictures of as many prompts as seeds, such as a pipeline.
        metadata: lines of evaluation_metadata.jsonl, as `sana_judge.geneval.read_metadata` gives them.
        directory: the folder; made where it is missing.
        seeds: those of each prompt's pictures.
        settings: what else decides the pictures; kept in DIR/drawing.json with the seeds.
        batch_size: how many pictures are drawn at once; always all of one prompt.
        progress: whether to show a progress bar.

    Raises:
        ValueError: the folder holds pictures that were drawn with other settings.
    """
    record = {**settings, "seeds": list(seeds), "metadata": _digest(metadata)}
    _check_same(directory, record)
    together = max(1, batch_size // len(seeds))
    with tqdm(total=len(metadata), unit="prompt", disable=not progress) as bar:
        for first in range(0, len(metadata), together):
            numbers = range(first, min(first + together, len(metadata)))
            if not all((directory / f"{number:05}" / "metadata.jsonl").is_file() for number in numbers):
                prompts = [metadata[number]["prompt"] for number in numbers for _ in seeds]
                pictures = draw(prompts, list(seeds) * len(numbers))
                directory.mkdir(parents=True, exist_ok=True)
                write_json(directory / DRAWING, record)
                for row, number in enumerate(numbers):
                    its_own = pictures[row * len(seeds) : (row + 1) * len(seeds)]
                    for index, (seed, picture) in enumerate(zip(seeds, its_own, strict=True)):
                        path = directory / f"{number:05}" / "samples" / f"{index:05}.png"
                        save_png(picture, path, {"prompt": metadata[number]["prompt"], "seed": seed, **settings})
                    save_prompt(directory, number, metadata[number], [])
            bar.update(len(numbers))


def _check_same(directory: Path, settings: Mapping[str, Any]) -> None:
    """Raise ValueError where pictures lie that other settings made, or nobody knows which."""
    path = directory / DRAWING
    if not path.exists():
        if any(folder.name.isdecimal() for folder in directory.glob("*/")):
            raise ValueError(f"{directory} holds GenEval folders but no {DRAWING}: give a folder of its own")
        return
    then = json.loads(path.read_text(encoding="utf-8"))
    names = sorted(name for name in {**then, **settings} if then.get(name) != settings.get(name))
    if names:
        changed = ", ".join(f"{name} {then.get(name)} -> {settings.get(name)}" for name in names)
        raise ValueError(f"{directory} was drawn with other settings ({changed}): use the same, or give another folder")


def _digest(metadata: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(list(metadata), sort_keys=True).encode()).hexdigest()

"""sana judge: how well images show what a prompt says, the best first."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sana.commands.messages import messages
from sana.commands.options import DeviceOption, JsonOption, ProgressOption
from sana.judges import JUDGE_HELP

PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # what is judged of a folder


def judge(
    prompt: Annotated[str, typer.Argument(help="What the images should show.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Images of any size, or folders of them.")],
    judge: Annotated[str, typer.Option(help=f"The judge: {JUDGE_HELP}")] = "embedded",
    task: Annotated[str | None, typer.Option(help="Kind of prompt, for a judge that is calibrated by kind.")] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Score images by how well they show a prompt; higher is better."""
    with messages(progress=progress):
        pictures = _pictures(images)
        from sana.judges import load_judge

        scores = load_judge(judge, task=task, device=device, progress=progress)(prompt, pictures)
        best_first = sorted(zip(scores, pictures, strict=True), key=lambda scored: -scored[0])  # of equals, the earlier
        if as_json:
            records = [{"path": str(path), "score": score} for score, path in best_first]
            print(json.dumps(records, indent=2, ensure_ascii=False))
        else:
            _print_table(judge, best_first)


def _pictures(given: list[Path]) -> list[Path]:
    """The files that are given, and in place of a folder the pictures in it."""
    if missing := [str(path) for path in given if not path.exists()]:
        raise FileNotFoundError(f"no image {', '.join(missing)}: give paths of files or folders")
    return [picture for path in given for picture in (_inside(path) if path.is_dir() else [path])]


def _inside(folder: Path) -> list[Path]:
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not pictures:
        raise FileNotFoundError(f"{folder} holds no image ({', '.join(PICTURES)}): give another folder, or files")
    return pictures


def _print_table(judge: str, best_first: list[tuple[float, Path]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(judge), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("image", overflow="fold")
    for rank, (score, path) in enumerate(best_first, start=1):
        table.add_row(str(rank), f"{score:.4f}", escape(str(path)))
    Console().print(table)

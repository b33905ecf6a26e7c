"""sana evaluate: how images score on a benchmark: a table, files to resume from, and sheets of the failures."""

import dataclasses
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana.commands.file_checks import check_input
from sana.commands.messages import RERUN, messages
from sana.commands.options import DeviceOption, JsonOption, ProgressOption

if TYPE_CHECKING:
    from sana_judge import Table
    from sana_judge.geneval import Result

evaluate = typer.Typer(help="Score images on a benchmark.", no_args_is_help=True)

DETECTOR = "facebook/mask2former-swin-small-coco-instance"
CLIP = "openai/clip-vit-large-patch14"


@evaluate.callback()
def _group() -> None:
    """Score images on a benchmark."""


@evaluate.command()
def geneval(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="00000/metadata.jsonl, 00000/samples/0000.png, ...")],
    detector: Annotated[str, typer.Option(help="Hub id or folder of a Mask2Former for COCO instances.")] = DETECTOR,
    clip: Annotated[str | None, typer.Option(help=f"CLIP that names colours; {CLIP} if left out.")] = None,
    detections: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Earlier detections, instead of a detector.")
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="The official evaluation_metadata.jsonl.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; DIR itself if left out.")] = None,
    threshold: Annotated[float, typer.Option(help="Score above which a detected object counts.")] = 0.3,
    counting_threshold: Annotated[float, typer.Option(help="Score threshold for counting prompts.")] = 0.9,
    batch_size: Annotated[int, typer.Option(min=1, help="Images detected at once.")] = 8,
    device: DeviceOption = None,
    sheets: Annotated[bool, typer.Option(help="Draw failures-1.png, ... with prompts and reasons.")] = True,
    as_json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Score the images in GenEval's folders. Stopped at any time, the same command resumes."""
    with messages(to_resume=RERUN, progress=progress):
        if metadata is not None:
            check_input(metadata, "--metadata", "GenEval's evaluation_metadata.jsonl")
        if detections is not None:
            check_input(detections, "--detections", "a file of detections")
        from sana_judge import geneval as benchmark

        target = out or directory
        common: dict[str, Any] = {
            "metadata": benchmark.read_metadata(metadata) if metadata else None,
            "out": target,
            "threshold": threshold,
            "counting_threshold": counting_threshold,
        }
        if detections is not None:
            if clip is not None:
                raise ValueError("--clip is given with --detections, which must have the colours: leave one out")
            table = benchmark.score_detections(directory, detections, **common)
        else:
            with warnings.catch_warnings(action="ignore"):  # score_directory gives the same warnings
                benchmark.read_directory(directory, common["metadata"])
            finder, namer = _models(detector, clip or CLIP, device)
            table = benchmark.score_directory(
                directory, finder, colors=namer, batch_size=batch_size, progress=progress, **common
            )
        results = benchmark.read_results(target / "results.jsonl")
        settings = _record_settings(target / "table.json", results)
        pages = _draw_failures(results, directory, target, progress=progress) if sheets else []
        if as_json:
            files = {"results": str(target / "results.jsonl"), "failures": [str(page) for page in pages]}
            print(
                json.dumps(dataclasses.asdict(table) | {"judged": len(results), "settings": settings} | files, indent=2)
            )
        else:
            _print_table(table, results)
            for path in (target / "results.jsonl", *pages):
                print(path)


def _models(detector: str, clip: str, device: str | None) -> tuple[Any, Any]:
    from sana.devices import usable_device
    from sana_judge import geneval as benchmark

    on = usable_device(device)
    finder = benchmark.Mask2FormerDetector.from_pretrained(detector, device=on)
    return finder, benchmark.CLIPColors.from_pretrained(clip, device=on)


def _record_settings(table: Path, results: "Sequence[Result]") -> dict[str, Any]:
    """Put what the pictures say of how they were drawn into the table's file, and return it."""
    from sana.picture_settings import picture_settings
    from sana_scale.files import write_json

    settings = picture_settings(Path(result.filename) for result in results)
    write_json(table, json.loads(table.read_text(encoding="utf-8")) | {"settings": settings})
    return settings


def _draw_failures(results: "Sequence[Result]", directory: Path, out: Path, *, progress: bool) -> list[Path]:
    """Draw what is wrong, page by page, and remove the pages of an earlier run that had more."""
    from tqdm import tqdm

    from sana.contact_sheet import Entry, contact_sheets
    from sana.png import save_png

    wrong = [result for result in results if not result.correct]
    entries = [
        Entry(
            picture=Path(result.filename),
            title=result.prompt,
            remark=result.reason,
            footnote=Path(result.filename).relative_to(directory).as_posix(),
        )
        for result in wrong
    ]
    heading = f"{len(wrong)} of {len(results)} images are wrong"
    pages: list[Path] = []
    for page in tqdm(contact_sheets(entries, heading), desc="sheets", unit="page", delay=1, disable=not progress):
        pages.append(out / f"failures-{len(pages) + 1}.png")
        save_png(page, pages[-1], {"failures": len(wrong), "page": len(pages)})
    for path in set(out.glob("failures-*.png")) - set(pages):
        if _is_sheet(path):
            path.unlink()
    return pages


def _is_sheet(path: Path) -> bool:
    """Whether it is a page that was drawn here, by what it carries, whatever else has such a name."""
    from PIL import Image

    from sana.png import METADATA_KEY

    try:
        with Image.open(path) as page:
            return set(json.loads(page.info.get(METADATA_KEY, "{}"))) == {"failures", "page"}
    except (OSError, SyntaxError, ValueError):
        return False


def _print_table(table: "Table", results: "Sequence[Result]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Printed

    printed = Printed(title="GenEval", title_justify="left")
    printed.add_column("task")
    for heading in ("correct", "images", "%"):
        printed.add_column(heading, justify="right")
    for task, share in table.tasks.items():
        correct = [result.correct for result in results if result.tag == task]
        printed.add_row(escape(task), f"{sum(correct):,}", f"{len(correct):,}", f"{100 * share:.2f}")
    printed.add_section()
    printed.add_row(table.heading, "", "", f"[bold]{100 * table.overall:.2f}[/bold]")
    count = sum(result.correct for result in results)
    printed.add_row("all images", f"{count:,}", f"{len(results):,}", f"{100 * table.images:.2f}")
    printed.add_row("prompts with a correct image", "", "", f"{100 * table.prompts:.2f}")
    Console().print(printed)

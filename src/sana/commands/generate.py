"""sana generate: pictures from prompts, saved with the settings that made them."""

import json
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana.commands.drawing_options import (
    CfgOption,
    DtypeOption,
    KernelsOption,
    LoraOption,
    ModelOption,
    NegativeOption,
    OffloadOption,
    QuantizeOption,
    SizeOption,
    StepsOption,
    TileOption,
)
from sana.commands.file_checks import check_input, check_output
from sana.commands.messages import RERUN, messages
from sana.commands.options import DeviceOption, JsonOption, ProgressOption, RevisionOption
from sana.commands.picture_names import slug
from sana.prompt_check import GUARD_MODEL, check_prompts

if TYPE_CHECKING:
    from PIL import Image

    from sana.pipeline import SanaPipeline
    from sana.sampler import Drawing

Job = tuple[str, int]
"""A prompt and a seed."""


def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw; may be several.")
    ] = None,
    model: ModelOption = "embedded",
    revision: RevisionOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of each prompt's first image.")] = 0,
    seeds: Annotated[str | None, typer.Option(metavar="S,S...", help="The seeds, instead of --seed and -n.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Images per prompt, with seeds s .. s+n-1.")] = 1,
    geneval: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Draw the prompts of GenEval's evaluation_metadata.jsonl into its folders; rerun it to resume.",
        ),
    ] = None,
    lora: LoraOption = None,
    size: SizeOption = None,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    negative: NegativeOption = "",
    out: Annotated[Path, typer.Option(help="A .png for a single image, otherwise a folder.")] = Path("."),
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn at once; fewer need less memory.")] = 8,
    tile: TileOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    kernels: KernelsOption = None,
    offload: OffloadOption = False,
    guard: Annotated[bool, typer.Option("--guard", help="Draw nothing if ShieldGemma finds a prompt harmful.")] = False,
    guard_model: Annotated[
        str | None, typer.Option(help=f"Folder or Hub id of the guard; {GUARD_MODEL} if left out.")
    ] = None,
    guard_threshold: Annotated[
        float | None,
        typer.Option(help="Refuse prompts whose probability of harm is at least this, up to 1; 0.5 if left out."),
    ] = None,
    as_json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Draw images from prompts."""
    with messages(to_resume=RERUN if geneval else "", progress=progress):
        if not guard and (guard_model, guard_threshold) != (None, None):
            raise ValueError("--guard-model or --guard-threshold is given, but no guard is asked for: add --guard")
        if bool(prompts) == (geneval is not None):
            raise ValueError("give either prompts or --geneval with a file of them")
        chosen = _seeds(seed, seeds, number)
        metadata = _metadata(geneval, out) if geneval else []
        texts = prompts or [record["prompt"] for record in metadata]
        jobs = list(product(texts, chosen))
        paths = [] if geneval else _paths(out, jobs)
        from sana.commands.drawing_checks import checked_drawing
        from sana.sampler import load_pipeline

        drawing = checked_drawing(
            model=model, revision=revision, lora=lora, size=size, steps=steps, cfg=cfg, negative=negative,
            device=device, dtype=dtype, quantize=quantize, kernels=kernels, offload=offload, tile=tile,
        )  # fmt: skip
        if guard:
            threshold = 0.5 if guard_threshold is None else guard_threshold
            check_prompts(texts, model=guard_model or GUARD_MODEL, threshold=threshold, device=device)
        pipeline = load_pipeline(drawing)
        if geneval:
            settings = _draw_geneval(pipeline, drawing, metadata, out, chosen, batch_size, progress=progress)
            print(json.dumps({"path": str(out), "seeds": chosen} | settings, indent=2) if as_json else out)
        else:
            records = _draw_prompts(pipeline, drawing, jobs, paths, batch_size, progress=progress)
            print(json.dumps(records, indent=2, ensure_ascii=False) if as_json else "\n".join(map(str, paths)))


def _draw_prompts(
    pipeline: "SanaPipeline",
    drawing: "Drawing",
    jobs: Sequence[Job],
    paths: Sequence[Path],
    batch_size: int,
    *,
    progress: bool,
) -> list[dict[str, Any]]:
    """Save each picture as soon as it is drawn, with what made it inside; returns those records with their paths."""
    from sana.png import save_png

    facts = drawing.facts()
    records: list[dict[str, Any]] = []

    def save(number: int, picture: "Image.Image") -> None:
        prompt, seed = jobs[number]
        record = {"prompt": prompt, "seed": seed, **facts, "height": picture.height, "width": picture.width}
        save_png(picture, paths[number], record)
        records.append({"path": str(paths[number])} | record)

    prompts, seeds = [prompt for prompt, _ in jobs], [seed for _, seed in jobs]
    pipeline(prompts, seeds, batch_size=batch_size, on_image=save, progress=progress, **drawing.options)
    return records


def _draw_geneval(
    pipeline: "SanaPipeline",
    drawing: "Drawing",
    metadata: Sequence[Any],
    out: Path,
    seeds: Sequence[int],
    batch_size: int,
    *,
    progress: bool,
) -> dict[str, Any]:
    """Draw GenEval's prompts into its folders; returns the settings."""
    from sana.geneval_drawing import draw_geneval

    height, width = pipeline.sizes(drawing.height, drawing.width)[1]
    settings = drawing.facts() | {"height": height, "width": width} | drawing.numerics
    draw = partial(pipeline, batch_size=batch_size, progress=False, **drawing.options)
    draw_geneval(draw, metadata, out, seeds=seeds, settings=settings, batch_size=batch_size, progress=progress)
    return settings


def _seeds(first: int, given: str | None, number: int) -> list[int]:
    if given is None:
        return list(range(first, first + number))
    if first or number > 1:
        raise ValueError(f"--seeds {given} names the images: leave --seed and -n out")
    try:
        seeds = [int(text) for text in given.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0:
        raise ValueError(f"--seeds is {given!r}; give whole numbers from 0 with commas, such as 0,1,7")
    return seeds


def _paths(out: Path, jobs: list[Job]) -> list[Path]:
    """Where each picture goes; looked into before anything is drawn, made when the first picture is saved."""
    suffix = out.suffix.lower()
    if suffix in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise ValueError(f"--out is {out}; images are written as PNG: give a name that ends in .png, or a folder")
    single = suffix == ".png" and not out.is_dir()
    if single and len(jobs) > 1:
        raise ValueError(f"--out is {out}, one file, for {len(jobs)} images: give a folder")
    folder = out.parent if single else out
    check_output(folder, out)
    if single:
        return [out]
    paths = [folder / f"{slug(prompt)}-{seed}.png" for prompt, seed in jobs]
    if len(set(paths)) < len(paths):  # the same prompt and seed twice
        paths = [path.with_stem(f"{number:04d}-{path.stem}") for number, path in enumerate(paths)]
    return paths


def _metadata(path: Path, out: Path) -> list[Any]:
    """The lines of GenEval's evaluation_metadata.jsonl, and a folder to draw them into."""
    from sana_judge.geneval import read_metadata

    if out.suffix.lower() == ".png":
        raise ValueError(f"--out is {out}, one file, for the prompts of {path}: give a folder")
    check_input(path, "--geneval", "GenEval's evaluation_metadata.jsonl")
    check_output(out, out)
    metadata = read_metadata(path)
    if not metadata:
        raise ValueError(f"{path} is empty: give GenEval's evaluation_metadata.jsonl")
    return metadata

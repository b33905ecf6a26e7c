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
    DeviceOption,
    DtypeOption,
    KernelsOption,
    LoraOption,
    ModelOption,
    NegativeOption,
    OffloadOption,
    ProgressOption,
    QuantizeOption,
    RevisionOption,
    SizeOption,
    StepsOption,
    TileOption,
    parsed_dtype,
    parsed_lora,
    parsed_size,
)
from sana.commands.file_checks import check_input, check_output
from sana.commands.messages import messages
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
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw; several make several.")
    ] = None,
    model: ModelOption = "embedded",
    revision: RevisionOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture of each prompt.")] = 0,
    seeds: Annotated[str | None, typer.Option(metavar="S,S...", help="The seeds themselves, instead.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Pictures per prompt: seeds s .. s+n-1.")] = 1,
    geneval: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Draw the prompts of GenEval's evaluation_metadata.jsonl into its folders; stopped, the same goes on.",
        ),
    ] = None,
    lora: LoraOption = None,
    size: SizeOption = None,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    negative: NegativeOption = "",
    out: Annotated[Path, typer.Option(help="A .png for one picture, else a folder.")] = Path("."),
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures drawn at once; fewer take less memory.")] = 8,
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
        float | None, typer.Option(help="Least probability of harm that is refused, to 1; 0.5 if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of what was written.")] = False,
    progress: ProgressOption = True,
) -> None:
    """Draw pictures from prompts."""
    with messages(goes_on="the same command goes on" if geneval else ""):
        if not guard and (guard_model, guard_threshold) != (None, None):
            raise ValueError("--guard-model or --guard-threshold is given, but nothing is guarded: add --guard")
        if bool(prompts) == (geneval is not None):
            raise ValueError("give one of two: prompts, or --geneval with a file of them")
        chosen = _seeds(seed, seeds, number)
        metadata = _metadata(geneval, out) if geneval else []
        texts = prompts or [record["prompt"] for record in metadata]
        jobs = list(product(texts, chosen))
        paths = [] if geneval else _paths(out, jobs)
        width, height = parsed_size(size)
        from transformers.utils import logging

        from sana.commands.drawing_checks import check_size, warn_of_kernels
        from sana.sampler import Drawing, load_pipeline

        drawing = Drawing(
            model=model,
            revision=revision,
            steps=steps,
            guidance_scale=cfg,
            negative_prompt=negative,
            height=height,
            width=width,
            device=device,
            dtype=dtype and parsed_dtype(dtype),
            offload=offload,
            tile=tile,
            quantize=quantize,
            kernels=kernels,
            loras=tuple(map(parsed_lora, lora or ())),
        )
        warn_of_kernels(kernels, device)
        check_size(model, width, height, revision=revision)
        if not progress:
            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
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

    settings = _settings(pipeline, drawing)
    records: list[dict[str, Any]] = []

    def save(number: int, picture: "Image.Image") -> None:
        prompt, seed = jobs[number]
        drawn = {"height": picture.height, "width": picture.width}
        record = {"prompt": prompt, "seed": seed} | settings | drawn
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
    from sana.kernels import kernels_in_force

    height, width = pipeline.sizes(drawing.height, drawing.width)[1]
    settings = _settings(pipeline, drawing) | {"height": height, "width": width}
    settings |= {"dtype": drawing.dtype and str(drawing.dtype).removeprefix("torch."), "quantize": drawing.quantize}
    settings |= {"kernels": kernels_in_force(drawing.kernels)}
    draw = partial(pipeline, batch_size=batch_size, progress=False, **drawing.options)
    draw_geneval(draw, metadata, out, seeds=seeds, settings=settings, batch_size=batch_size, progress=progress)
    return settings


def _settings(pipeline: "SanaPipeline", drawing: "Drawing") -> dict[str, Any]:
    """What made a picture, beside its prompt, seed and size."""
    steps, scale = pipeline.settings(drawing.steps, drawing.guidance_scale)
    given = {"revision": drawing.revision, "loras": dict(drawing.loras)}
    return {
        "model": drawing.model,
        **{name: value for name, value in given.items() if value},
        "sampler": "sCM" if pipeline.is_sprint else "Flow-DPM-Solver",
        "steps": steps,
        "guidance_scale": scale,
        "negative_prompt": drawing.negative_prompt,
    }


def _seeds(first: int, given: str | None, number: int) -> list[int]:
    if given is None:
        return list(range(first, first + number))
    if first or number > 1:
        raise ValueError(f"--seeds {given} names the pictures: leave --seed and -n out")
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
        raise ValueError(f"--out is {out}; pictures are written as PNG: give a name in .png, or a folder")
    single = suffix == ".png" and not out.is_dir()
    if single and len(jobs) > 1:
        raise ValueError(f"--out is {out}, one file, for {len(jobs)} pictures: give a folder")
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

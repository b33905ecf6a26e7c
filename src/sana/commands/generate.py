"""sana generate: pictures from prompts, saved with the settings that made them."""

import json
import os
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from sana.commands.drawing_options import (
    parsed_dtype,
    parsed_kernels,
    parsed_lora,
    parsed_quantization,
    parsed_size,
)
from sana.commands.messages import messages
from sana.commands.picture_names import slug
from sana.png import save_png
from sana.prompt_check import GUARD_MODEL, check_prompts


def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw; several make several.")
    ] = None,
    model: Annotated[
        str, typer.Option(help='Pipeline folder, Hub id, name that `sana list` shows, or "embedded".')
    ] = "embedded",
    seed: Annotated[int, typer.Option(help="Seed of the first picture of each prompt.")] = 0,
    seeds: Annotated[str | None, typer.Option(metavar="S,S...", help="The seeds themselves, instead.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Pictures per prompt: seeds s .. s+n-1.")] = 1,
    geneval: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Draw the prompts of GenEval's evaluation_metadata.jsonl into its folders; stopped, the same goes on.",
        ),
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="REPO[:SCALE]", help="LoRA file, folder or Hub id; may be repeated.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels, such as 1024x768.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    negative: Annotated[str, typer.Option(help="What to lead away from.")] = "",
    out: Annotated[Path, typer.Option(help="A .png for one picture, else a folder.")] = Path("."),
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures drawn at once; fewer take less memory.")] = 8,
    tile: Annotated[
        int | None, typer.Option(help="Pixels per side decoded at once, such as 1024: far less memory at 2K and 4K.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cuda, cuda:1, mps or cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    quantize: Annotated[str | None, typer.Option(help="int8 or nf4: weights in 8 or 4 bits.")] = None,
    kernels: Annotated[str | None, typer.Option(help="reference (PyTorch), or fused: Triton on a GPU.")] = None,
    offload: Annotated[bool, typer.Option(help="Keep the caption encoder in CPU memory while drawing.")] = False,
    guard: Annotated[bool, typer.Option("--guard", help="Draw nothing if ShieldGemma finds a prompt harmful.")] = False,
    guard_model: Annotated[
        str | None, typer.Option(help=f"Folder or Hub id of the guard; {GUARD_MODEL} if left out.")
    ] = None,
    guard_threshold: Annotated[
        float | None, typer.Option(help="Least probability of harm that is refused, to 1; 0.5 if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of what was written.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Draw pictures from prompts."""
    with messages():
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
        torch_dtype = parsed_dtype(dtype)
        loras = [parsed_lora(text) for text in lora or []]
        from transformers.utils import logging

        from sana.pipeline import SanaPipeline

        if not progress:
            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        if guard:
            threshold = 0.5 if guard_threshold is None else guard_threshold
            check_prompts(texts, model=guard_model or GUARD_MODEL, threshold=threshold, device=device)
        pipeline = SanaPipeline.from_pretrained(
            model,
            device=device,
            dtype=torch_dtype,
            quantize=parsed_quantization(quantize),
            offload=offload,
            tile=tile,
            kernels=parsed_kernels(kernels),
        )
        for source, scale in loras:
            pipeline.load_lora(source, scale=scale)
        settings: dict[str, Any] = {
            "model": model,
            **({"loras": dict(loras)} if loras else {}),
            "sampler": "sCM" if pipeline.is_sprint else "Flow-DPM-Solver",
            "steps": pipeline.facts.steps_for(pipeline.is_sprint) if steps is None else steps,
            "guidance_scale": pipeline.facts.guidance_scale if cfg is None else cfg,
            "negative_prompt": negative,
        }
        draw = partial(
            pipeline,
            height=height,
            width=width,
            steps=steps,
            guidance_scale=cfg,
            negative_prompt=negative,
            batch_size=batch_size,
        )
        if geneval:
            from sana.geneval_drawing import draw_geneval
            from sana.kernels import kernels_in_force

            height, width = pipeline.sizes(height, width)[1]
            settings |= {"height": height, "width": width, "dtype": dtype, "quantize": quantize}
            settings |= {"kernels": kernels_in_force(pipeline.kernels)}
            draw_geneval(
                partial(draw, progress=False),
                metadata,
                out,
                seeds=chosen,
                settings=settings,
                batch_size=batch_size,
                progress=progress,
            )
            print(json.dumps({"path": str(out), "seeds": chosen} | settings, indent=2) if as_json else out)
            return
        records: list[dict[str, Any]] = []

        def save(number: int, picture: Image.Image) -> None:
            prompt, its_seed = jobs[number]
            drawn = {"height": picture.height, "width": picture.width}
            record = {"prompt": prompt, "seed": its_seed} | settings | drawn
            save_png(picture, paths[number], record)
            records.append({"path": str(paths[number])} | record)

        draw([prompt for prompt, _ in jobs], [its_seed for _, its_seed in jobs], on_image=save, progress=progress)
        if as_json:
            print(json.dumps(records, indent=2, ensure_ascii=False))
        else:
            for path in paths:
                print(path)


def _seeds(first: int, given: str | None, number: int) -> list[int]:
    if given is None:
        return list(range(first, first + number))
    if first or number > 1:
        raise ValueError(f"--seeds {given} names the pictures: leave --seed and -n out")
    try:
        return [int(text) for text in given.split(",")]
    except ValueError:
        raise ValueError(f"--seeds is {given!r}; give whole numbers with commas, such as 0,1,7") from None


def _paths(out: Path, jobs: list[tuple[str, int]]) -> list[Path]:
    """Where each picture goes; looked into before anything is drawn, made when the first picture is saved."""
    suffix = out.suffix.lower()
    if suffix in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise ValueError(f"--out is {out}; pictures are written as PNG: give a name in .png, or a folder")
    single = suffix == ".png" and not out.is_dir()
    if single and len(jobs) > 1:
        raise ValueError(f"--out is {out}, one file, for {len(jobs)} pictures: give a folder")
    folder = out.parent if single else out
    _check_folder(folder, out)
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
    _check_folder(out, out)
    metadata = list(read_metadata(path))
    if not metadata:
        raise ValueError(f"{path} is empty: give GenEval's evaluation_metadata.jsonl")
    return metadata


def _check_folder(folder: Path, out: Path) -> None:
    """Raise ValueError or PermissionError where nothing can be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--out is {out}, but {existing} is a file: give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{existing} cannot be written to: give another --out")

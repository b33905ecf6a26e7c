"""sana generate: pictures from prompts, saved with the settings that made them."""

import hashlib
import json
import os
import re
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from sana.commands.messages import messages
from sana.png import save_png


def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to draw; several make several.")],
    model: Annotated[str, typer.Option(help='Pipeline folder, Hub id, or "embedded".')] = "embedded",
    seed: Annotated[int, typer.Option(help="Seed of the first picture of each prompt.")] = 0,
    seeds: Annotated[str | None, typer.Option(metavar="S,S...", help="The seeds themselves, instead.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Pictures per prompt: seeds s .. s+n-1.")] = 1,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels, such as 1024x768.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    negative: Annotated[str, typer.Option(help="What to lead away from.")] = "",
    out: Annotated[Path, typer.Option(help="A .png for one picture, else a folder.")] = Path("."),
    device: Annotated[str | None, typer.Option(help="Such as cuda, cuda:1, mps or cpu.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    offload: Annotated[bool, typer.Option(help="Keep the caption encoder in CPU memory while drawing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of what was written.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Draw pictures from prompts."""
    with messages():
        jobs = list(product(prompts, _seeds(seed, seeds, number)))
        paths = _paths(out, jobs)
        width, height = _size(size)
        torch_dtype = _dtype(dtype)
        from transformers.utils import logging

        from sana.pipeline import SanaPipeline

        if not progress:
            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        pipeline = SanaPipeline.from_pretrained(model, device=device, dtype=torch_dtype, offload=offload)
        settings = {
            "model": model,
            "steps": pipeline.facts.steps_for(pipeline.is_sprint) if steps is None else steps,
            "guidance_scale": pipeline.facts.guidance_scale if cfg is None else cfg,
            "negative_prompt": negative,
        }
        records: list[dict[str, Any]] = []

        def save(number: int, picture: Image.Image) -> None:
            prompt, its_seed = jobs[number]
            drawn = {"height": picture.height, "width": picture.width}
            record = {"prompt": prompt, "seed": its_seed} | settings | drawn
            save_png(picture, paths[number], record)
            records.append({"path": str(paths[number])} | record)

        pipeline(
            [prompt for prompt, _ in jobs],
            [its_seed for _, its_seed in jobs],
            height=height,
            width=width,
            steps=steps,
            guidance_scale=cfg,
            negative_prompt=negative,
            on_image=save,
            progress=progress,
        )
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


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise ValueError(f"--size is {text!r}; give width x height in pixels, such as 1024x768")
    return int(match[1]), int(match[2])


def _dtype(name: str | None) -> Any:
    if name is None:
        return None
    import torch

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise ValueError(f"--dtype is {name!r}; it is one of {', '.join(dtypes)}")
    return dtypes[name]


def _paths(out: Path, jobs: list[tuple[str, int]]) -> list[Path]:
    """Where each picture goes; looked into before anything is drawn, made when the first picture is saved."""
    suffix = out.suffix.lower()
    if suffix in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise ValueError(f"--out is {out}; pictures are written as PNG: give a name in .png, or a folder")
    single = suffix == ".png" and not out.is_dir()
    if single and len(jobs) > 1:
        raise ValueError(f"--out is {out}, one file, for {len(jobs)} pictures: give a folder")
    folder = out.parent if single else out
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--out is {out}, but {existing} is a file: give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{existing} cannot be written to: give another --out")
    if single:
        return [out]
    paths = [folder / f"{_slug(prompt)}-{seed}.png" for prompt, seed in jobs]
    if len(set(paths)) < len(paths):  # the same prompt and seed twice
        paths = [path.with_stem(f"{number:04d}-{path.stem}") for number, path in enumerate(paths)]
    return paths


def _slug(prompt: str) -> str:
    """The words of a prompt as a file name; what cannot be read off them is told apart by a hash."""
    words = re.sub(r"[\s!-/:-@\[-^`{-~]+", "-", prompt.lower()).strip("-")
    slug = re.sub(r"[^\w-]+", "", words)[:40].strip("-")
    if slug == words and slug:
        return slug
    digest = hashlib.blake2b(prompt.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return f"{slug or 'picture'}-{digest}"

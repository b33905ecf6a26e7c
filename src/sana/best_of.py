"""Best-of-N with a pipeline and a judge by their names: who works, and the pictures that it leaves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sana.choices import ExecutorName
from sana.contact_sheet import Entry, contact_sheets
from sana.judges import load_judge
from sana.kernels import kernels_in_force
from sana.loading_bars import without_bars
from sana.png import save_png
from sana.sampler import Drawing, PipelineSampler, load_sampler
from sana_scale import BestOfN, Executor, Judge, Local, Ray, SharedDir
from sana_scale.many_prompts import check_budget
from sana_scale.request import Request


def make_executor(name: ExecutorName, drawing: Drawing, judge: str, *, workers: int, progress: bool = True) -> Executor:
    """The executor of a name. A worker is a sampler and a judge; on GPUs, the two share one.

    Without `progress` they load weights without bars.

    Raises:
        ValueError: several workers are asked of `local`, which is one.
    """
    if name == "local":
        if workers != 1:
            raise ValueError(f"workers is {workers}; the local executor is a single one: choose shared-dir or ray")
        return Local()
    drawing = replace(drawing, kernels=kernels_in_force(drawing.kernels))  # a worker has a switch of its own
    make_sampler: Callable[[], PipelineSampler] = partial(load_sampler, drawing)
    make_judge: Callable[[], Judge[Any]] = partial(load_judge, judge, device=drawing.device, progress=False)
    if not progress:
        make_sampler, make_judge = partial(without_bars, make_sampler), partial(without_bars, make_judge)
    gpus = torch.cuda.device_count() if drawing.device is None else 0
    if name == "shared-dir":
        return SharedDir(make_sampler, make_judge, workers=workers, devices=tuple(map(str, range(gpus))))
    share = 0.5 if gpus else 0.0
    return Ray(make_sampler, make_judge, samplers=workers, judges=workers, sampler_gpus=share, judge_gpus=share)


def check_request(prompts: Sequence[str], options: Mapping[str, Any], budget: int | None) -> None:
    """Raise ValueError where the numbers of a run make no sense together; `options` are those of `best_of_n`."""
    first = Request(prompt=prompts[0], **options)
    if budget is not None:
        check_budget(budget, first, len(prompts))


def save_result(
    result: BestOfN[Image.Image], out: Path, name: str, *, facts: Mapping[str, Any], judge: str
) -> list[dict[str, Any]]:
    """Write the kept pictures, with what made them inside, and a contact sheet of them with their scores.

    Returns a record per picture, best first: path, prompt, seed, score, judge, `facts` (those of its `Drawing`), size.
    """
    records: list[dict[str, Any]] = []
    for candidate in result.candidates[: len(result.images)]:
        assert candidate.image is not None
        made: dict[str, Any] = {
            "prompt": result.prompt,
            "seed": candidate.seed,
            "score": candidate.score,
            "judge": judge,
            **facts,
            "height": candidate.image.height,
            "width": candidate.image.width,
        }
        path = out / f"{name}-{candidate.seed}.png"
        save_png(candidate.image, path, made)
        records.append({"path": str(path)} | made)
    entries = [
        Entry(picture=Path(record["path"]), title=f"{record['score']:.4f}", footnote=f"seed {record['seed']}")
        for record in records
    ]
    heading = f"{result.prompt}: best of {len(result.candidates)}"
    for number, page in enumerate(contact_sheets(entries, heading)):
        suffix = f"-{number + 1}" if number else ""
        save_png(page, out / f"{name}-sheet{suffix}.png", {"prompt": result.prompt, "judge": judge})
    return records


def summary(result: BestOfN[Image.Image]) -> dict[str, Any]:
    """What a run spent, for JSON."""
    pilot = result.pilot and asdict(result.pilot)
    return {
        "prompt": result.prompt,
        "judged": len(result.candidates),
        "generated": result.generated,
        "wasted": result.wasted,
        "cost_in_images": result.cost,
        "stopped": result.stopped,
        "pruned": len(result.pruned),
        "pilot": pilot,
    }

"""Best-of-N with a pipeline and a judge by their names, here or on several workers, and the pictures that it leaves."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from sana.catalog import EMBEDDED, locate
from sana.contact_sheet import Entry, contact_sheets
from sana.judges import EMBEDDED_JUDGE, load_judge
from sana.kernels import Kernels, kernels_in_force
from sana.pipeline import SanaPipeline
from sana.png import save_png
from sana_dit import Quantization
from sana_scale import (
    BestOfN,
    Budget,
    Executor,
    ImprovementBelow,
    Local,
    NoGain,
    Ray,
    SharedDir,
    StopRule,
    Threshold,
)
from sana_scale.files import FileLock, write_json
from sana_scale.many_prompts import check_budget
from sana_scale.request import Request

ExecutorName = Literal["local", "shared-dir", "ray"]
MADE_BY = "made-by.json"
BEFORE = {"kernels": "reference", "loras": []}  # of runs that were begun when these were not written down
# Of a checkpoint: weights, configurations and calibrations, tokenizers and chat templates. Not its README.
CONTENTS = (".safetensors", ".bin", ".pth", ".json", ".txt", ".jinja", ".model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A model and how it draws; None is the checkpoint's own, or as `from_pretrained` has it.

    `loras` are adapters with their scales.
    """

    model: str
    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None
    device: str | None = None
    dtype: torch.dtype | None = None
    offload: bool = False
    quantize: Quantization | None = None
    kernels: Kernels | None = None
    loras: tuple[tuple[str, float], ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """What every picture is drawn with."""
        names = ("steps", "guidance_scale", "negative_prompt", "height", "width")
        return {name: getattr(self, name) for name in names}


class PipelineSampler:
    """A pipeline that draws every picture in one way; it can show its pictures half-way."""

    def __init__(self, pipeline: SanaPipeline, drawing: Drawing) -> None:
        self._pipeline = pipeline
        self._options = drawing.options

    def __call__(self, prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
        """One picture per seed."""
        return self._pipeline(prompt, seeds, batch_size=max(1, len(seeds)), progress=False, **self._options)

    def previewing(
        self,
        prompt: str,
        seeds: Sequence[int],
        *,
        at: Sequence[float],
        keep: Callable[[Sequence[Image.Image]], Sequence[int]],
    ) -> list[tuple[int, Image.Image]]:
        """The same, going on at each look with those that `keep` names."""
        batch_size = max(1, len(seeds))
        return self._pipeline.previewing(prompt, seeds, at=at, keep=keep, batch_size=batch_size, **self._options)


def load_sampler(drawing: Drawing) -> PipelineSampler:
    """The sampler that a drawing describes."""
    pipeline = SanaPipeline.from_pretrained(
        drawing.model,
        device=drawing.device,
        dtype=drawing.dtype,
        quantize=drawing.quantize,
        offload=drawing.offload,
        kernels=drawing.kernels,
    )
    for source, scale in drawing.loras:
        pipeline.load_lora(source, scale=scale)
    return PipelineSampler(pipeline, drawing)


def make_executor(name: ExecutorName, drawing: Drawing, judge: str, *, workers: int) -> Executor:
    """The executor of a name. A worker is a sampler and a judge; on GPUs, the two share one.

    Raises:
        ValueError: several workers are asked of `local`, which is one.
    """
    if name == "local":
        if workers != 1:
            raise ValueError(
                f"{workers} workers are asked of the local executor, which is one: choose shared-dir or ray"
            )
        return Local()
    drawing = replace(drawing, kernels=kernels_in_force(drawing.kernels))  # a worker has a switch of its own
    makers = partial(load_sampler, drawing), partial(load_judge, judge, device=drawing.device, progress=False)
    gpus = torch.cuda.device_count() if drawing.device is None else 0
    if name == "shared-dir":
        return SharedDir(*makers, workers=workers, devices=tuple(map(str, range(gpus))))
    share = 0.5 if gpus else 0.0
    return Ray(*makers, samplers=workers, judges=workers, sampler_gpus=share, judge_gpus=share)


def parse_stop(text: str) -> StopRule:
    """The rule that a text names: "p=0.95" or "0.95", "gain=16", "improvement=0.002", "images=40", "seconds=60".

    Raises:
        ValueError: it names none, or a number that a rule does not take.
    """
    kind, equals, number = text.rpartition("=")
    makers: dict[str, Callable[[float], StopRule]] = {
        "p": lambda value: Threshold(_probability(value)),
        "gain": lambda value: NoGain(_whole(value)),
        "improvement": lambda value: ImprovementBelow(value, ceiling=1.0),
        "images": lambda value: Budget(images=_whole(value)),
        "seconds": lambda value: Budget(seconds=value),
    }
    try:
        return makers[kind if equals else "p"](float(number))
    except (KeyError, ValueError) as error:
        reason = "" if isinstance(error, KeyError) else f" ({error})"
        raise ValueError(
            f"--stop is {text!r}{reason}; give p=0.95 (a score), gain=16 (images without one), improvement=0.002 (that "
            "one more is expected to bring), images=40 or seconds=600"
        ) from None


def check_request(prompts: Sequence[str], options: Mapping[str, Any], budget: int | None) -> None:
    """Raise ValueError where the numbers of a run make no sense together; `options` are those of `best_of_n`."""
    first = Request(prompt=prompts[0], **options)
    if budget is not None:
        check_budget(budget, first, len(prompts))


def claim_run(run_dir: Path, drawing: Drawing, judge: str) -> None:
    """Write down who draws and judges in a run directory, or check that it is who did so before.

    Folders are known by a hash of their contents as well; models on the Hub are known by name.

    Raises:
        ValueError: it was another model, other settings or another judge; or `run_dir` is a file.
        RuntimeError: another process drives it.
    """
    here = {"judge": judge, "model": drawing.model, **drawing.options}
    here |= {"dtype": drawing.dtype and str(drawing.dtype).removeprefix("torch."), "quantize": drawing.quantize}
    here |= {"kernels": kernels_in_force(drawing.kernels)}
    here |= {"loras": [[source, scale, _contents(source)] for source, scale in drawing.loras]}
    judge_folder = str(EMBEDDED_JUDGE) if judge == EMBEDDED else judge
    here |= {"model_contents": _contents(str(locate(drawing.model)[0])), "judge_contents": _contents(judge_folder)}
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
        raise ValueError(f"{run_dir} was made otherwise: {facts}. Choose another --run-dir")


def _contents(name: str) -> str | None:
    """A hash of a checkpoint, whose name may follow a kind of judge; None for what is not on this machine."""
    place = next((Path(part) for part in (name, name.partition(":")[2]) if part and Path(part).exists()), None)
    if place is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if path.suffix in CONTENTS and path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.relative_to(place)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def save_result(
    result: BestOfN[Image.Image], out: Path, name: str, *, drawing: Drawing, judge: str
) -> list[dict[str, Any]]:
    """Write the kept pictures, with what made them inside, and a contact sheet of them with their scores.

    Returns a record per picture, best first: path, prompt, seed, score, judge, and what it was drawn with.
    """
    records: list[dict[str, Any]] = []
    for candidate in result.candidates[: len(result.images)]:
        assert candidate.image is not None
        made: dict[str, Any] = {
            "prompt": result.prompt,
            "seed": candidate.seed,
            "score": candidate.score,
            "judge": judge,
        }
        made |= {"model": drawing.model} | ({"loras": dict(drawing.loras)} if drawing.loras else {}) | drawing.options
        made |= {"height": candidate.image.height, "width": candidate.image.width}
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


def _whole(value: float) -> int:
    if not value.is_integer():
        raise ValueError(f"{value:g} is no whole number")
    return int(value)


def _probability(value: float) -> float:
    if value > 1:
        raise ValueError(f"p is {value:g} and is a probability, 1 at most")
    return value

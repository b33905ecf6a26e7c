"""sana best-of: draw many pictures, keep those that a judge finds best."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from sana.commands.picture_names import slugs
from sana.judges import JUDGE_HELP

if TYPE_CHECKING:
    from PIL import Image

    from sana.sampler import Drawing
    from sana_scale import BestOfN, Halving, Progress


def best_of(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw.")] = None,
    prompts_file: Annotated[Path | None, typer.Option("--prompts", help="A file with a prompt per line.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Pictures per prompt: seeds s .. s+n-1.")] = 64,
    judge: Annotated[str, typer.Option(help=f"Who judges: {JUDGE_HELP}")] = "embedded",
    keep: Annotated[
        int | None, typer.Option(min=1, help="Pictures to keep of each prompt; 4, or all of fewer.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture of each prompt.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures drawn at once.")] = 8,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop",
            "--stop-at",
            metavar="RULE",
            help="p=0.95 (or 0.95) at that score, gain=16 after as many without one, improvement=0.002 when one more "
            "is expected to bring less, images=40, seconds=600; may repeat, the first to hold ends a prompt.",
        ),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Give up half-way on the worse half of each batch.")] = False,
    prune_at: Annotated[str, typer.Option(metavar="F,F...", help="Fractions of the steps to look at.")] = "0.25",
    budget: Annotated[int | None, typer.Option(min=1, help="Pictures of all prompts together.")] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Write what fewer pictures would have given.")] = False,
    run_dir: Annotated[Path | None, typer.Option(help="Keep the run here: killed, it goes on.")] = None,
    executor: Annotated[
        Literal["local", "shared-dir", "ray"], typer.Option(help="Where to work; others than local need --run-dir.")
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Of shared-dir and ray.")] = 1,
    model: ModelOption = "embedded",
    revision: RevisionOption = None,
    lora: LoraOption = None,
    size: SizeOption = None,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    negative: NegativeOption = "",
    out: Annotated[Path, typer.Option(help="Folder of the pictures, sheets and curve.")] = Path("."),
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    kernels: KernelsOption = None,
    offload: OffloadOption = False,
    tile: TileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, a record per prompt.")] = False,
    progress: ProgressOption = True,
) -> None:
    """Draw many pictures of a prompt and keep those that a judge scores highest."""
    with messages(goes_on="the same command goes on" if run_dir else ""):
        texts = _prompts(prompts or [], prompts_file)
        check_output(out, out)
        width, height = parsed_size(size)
        from transformers.utils import logging

        from sana.best_of import check_request
        from sana.commands.drawing_checks import check_size, warn_of_kernels
        from sana.sampler import Drawing
        from sana.stop_rules import parse_stop

        if not progress:
            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        rules = tuple(map(parse_stop, stop or ()))
        halving = _halving(prune_at) if prune else None
        if curve and (rules or prune or budget):
            raise ValueError("--curve is for whole runs: leave --stop, --prune and --budget out")
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
        kept = min(4, number) if keep is None else keep
        options = {"n": number, "keep": kept, "seed": seed, "batch_size": batch_size, "stop": rules, "prune": halving}
        check_request(texts, options, budget)
        warn_of_kernels(kernels, device)
        check_size(model, width, height, revision=revision)
        with _work(drawing, judge, executor, workers, run_dir) as where, _bar(number, texts, progress) as show:
            results = _run(texts, options | where | {"on_progress": show}, budget)
        _report(texts, results, out, drawing=drawing, judge=judge, curve=curve, as_json=as_json)


def _prompts(given: Sequence[str], file: Path | None) -> list[str]:
    if bool(given) == (file is not None):
        raise ValueError("give prompts, or a file of them with --prompts: one of the two")
    from sana.pruning.calibration import read_prompts

    if file is not None:
        check_input(file, "--prompts", "a text file with a prompt per line")
    texts = list(given) if file is None else read_prompts(file)
    if twice := sorted({text for text in texts if texts.count(text) > 1}):
        raise ValueError(
            f"{twice[0]!r} is there twice: a prompt's pictures are the same each time, ask for more with -n"
        )
    return texts


def _halving(fractions: str) -> "Halving":
    from sana_scale import Halving

    try:
        return Halving(at=tuple(map(float, fractions.split(","))))
    except ValueError as error:
        raise ValueError(f"--prune-at is {fractions!r}: {error}") from None


@contextmanager
def _work(
    drawing: "Drawing",
    judge: str,
    executor: Literal["local", "shared-dir", "ray"],
    workers: int,
    run_dir: Path | None,
) -> Iterator[dict[str, Any]]:
    """The sampler and judge, or the executor that makes them, and the run directory; its errors as ours."""
    from sana.best_of import make_executor
    from sana.judges import load_judge
    from sana.run_identity import claim_run
    from sana.sampler import load_sampler
    from sana_scale.files import RunInUseError
    from sana_scale.worker_processes import WorkersKilledError

    where = make_executor(executor, drawing, judge, workers=workers)
    if where.brings_its_own and run_dir is None:
        raise ValueError(f"--executor {executor} works through a run directory: give --run-dir")
    try:
        if run_dir is not None:
            claim_run(run_dir, drawing, judge)
        sample = None if where.brings_its_own else load_sampler(drawing)
        scores = None if where.brings_its_own else load_judge(judge, device=drawing.device, progress=False)
        yield {"sample": sample, "judge": scores, "executor": where, "run_dir": run_dir}
    except (RunInUseError, WorkersKilledError, ImportError) as error:  # ImportError: an extra that is missing
        raise ValueError(str(error)) from error


@contextmanager
def _bar(number: int, prompts: Sequence[str], shown: bool) -> Iterator[Any]:
    """A bar over the pictures of all prompts that says the best score of the newest."""
    from tqdm import tqdm

    judged = dict.fromkeys(prompts, 0)
    with tqdm(total=number * len(prompts), unit="picture", disable=not shown) as bar:

        def show(progress: "Progress") -> None:
            bar.update(progress.judged - judged[progress.prompt])
            judged[progress.prompt] = progress.judged
            bar.set_postfix_str(f"best {progress.best_score:.4f}, seed {progress.best_seed}")

        yield show


def _run(prompts: list[str], options: dict[str, Any], budget: int | None) -> "list[BestOfN[Image.Image]]":
    from sana_scale import best_of_n, best_of_n_many

    sample, judge = options.pop("sample"), options.pop("judge")
    if len(prompts) == 1 and budget is None:
        return [best_of_n(sample, judge, prompts[0], **options)]
    return best_of_n_many(sample, judge, prompts, budget=budget, **options)


def _report(
    prompts: Sequence[str],
    results: "Sequence[BestOfN[Image.Image]]",
    out: Path,
    *,
    drawing: "Drawing",
    judge: str,
    curve: bool,
    as_json: bool,
) -> None:
    from sana.best_of import save_result, summary
    from sana_scale import best_of_k_curve, plot_curve, write_curve

    records = []
    for name, result in zip(slugs(prompts), results, strict=True):
        best = save_result(result, out, name, drawing=drawing, judge=judge)
        records.append(summary(result) | {"best": best})
    if curve:
        measured = best_of_k_curve(results)
        write_curve(measured, out / "curve.json")
        plot_curve(measured, out / "curve.png", label="score")
    if as_json:
        print(json.dumps(records, indent=2, ensure_ascii=False))
        return
    for record in records:
        why = f", {record['stopped']}" if record["stopped"] else ""
        print(f"{record['prompt']}: best of {record['judged']}{why}")
        for picture in record["best"]:
            print(f"  {picture['score']:.4f}  {picture['path']}")

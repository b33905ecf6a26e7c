"""sana best-of: draw many pictures, keep those that a judge finds best."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana.choices import ExecutorName
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
from sana.commands.picture_names import slugs
from sana.judges import JUDGE_HELP

if TYPE_CHECKING:
    from PIL import Image

    from sana.sampler import Drawing
    from sana_scale import BestOfN, Halving, Progress


def best_of(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw; may be several.")
    ] = None,
    prompts_file: Annotated[Path | None, typer.Option("--prompts", help="A file with a prompt per line.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Images per prompt, with seeds s .. s+n-1.")] = 64,
    judge: Annotated[str, typer.Option(help=f"The judge: {JUDGE_HELP}")] = "embedded",
    keep: Annotated[
        int | None, typer.Option(min=1, help="Images to keep per prompt; 4 if left out, or all if there are fewer.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of each prompt's first image.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 8,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop",
            "--stop-at",
            metavar="RULE",
            help="When to stop early: p=0.95 (or 0.95) at that score, gain=16 after 16 images without a better one, "
            "improvement=0.002 when another image is expected to gain less, images=40, seconds=600. May be repeated: "
            "the first rule that holds ends a prompt.",
        ),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Abandon the worse half of each batch part-way.")] = False,
    prune_at: Annotated[
        str, typer.Option(metavar="F,F...", help="When --prune looks, as fractions of the steps.")
    ] = "0.25",
    budget: Annotated[int | None, typer.Option(min=1, help="Largest number of images over all prompts.")] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Write curve.json and curve.png: what fewer images would have given.")
    ] = False,
    run_dir: Annotated[
        Path | None, typer.Option(help="Keep the run here, so that the same command resumes it.")
    ] = None,
    executor: Annotated[
        ExecutorName, typer.Option(help="Where to draw and judge; all but local need --run-dir.")
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Number of workers (shared-dir and ray only).")] = 1,
    model: ModelOption = "embedded",
    revision: RevisionOption = None,
    lora: LoraOption = None,
    size: SizeOption = None,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    negative: NegativeOption = "",
    out: Annotated[Path, typer.Option(help="Folder for the images, sheets and curve.")] = Path("."),
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    kernels: KernelsOption = None,
    offload: OffloadOption = False,
    tile: TileOption = None,
    as_json: JsonOption = False,
    progress: ProgressOption = True,
) -> None:
    """Draw many images of a prompt and keep those that a judge scores highest."""
    with messages(to_resume=RERUN if run_dir else "", progress=progress):
        texts = _prompts(prompts or [], prompts_file)
        check_output(out, out)
        from sana.best_of import check_request
        from sana.commands.drawing_checks import checked_drawing
        from sana.stop_rules import parse_stop

        rules = tuple(map(parse_stop, stop or ()))
        halving = _halving(prune_at) if prune else None
        if curve and (rules or prune or budget):
            raise ValueError("--curve needs complete runs: leave --stop, --prune and --budget out")
        kept = min(4, number) if keep is None else keep
        options = {"n": number, "keep": kept, "seed": seed, "batch_size": batch_size, "stop": rules, "prune": halving}
        check_request(texts, options, budget)
        drawing = checked_drawing(
            model=model, revision=revision, lora=lora, size=size, steps=steps, cfg=cfg, negative=negative,
            device=device, dtype=dtype, quantize=quantize, kernels=kernels, offload=offload, tile=tile,
        )  # fmt: skip
        work = _work(drawing, judge, executor, workers, run_dir, progress=progress)
        with work as where, _bar(number, texts, progress) as show:
            facts = drawing.facts()
            results = _run(texts, options | where | {"on_progress": show}, budget)
        _report(texts, results, out, facts=facts, judge=judge, curve=curve, as_json=as_json)


def _prompts(given: Sequence[str], file: Path | None) -> list[str]:
    if bool(given) == (file is not None):
        raise ValueError("give either prompts or a file of them with --prompts")
    from sana.pruning.calibration import read_prompts

    if file is not None:
        check_input(file, "--prompts", "a text file with a prompt per line")
    texts = list(given) if file is None else read_prompts(file)
    if twice := sorted({text for text in texts if texts.count(text) > 1}):
        raise ValueError(f"{twice[0]!r} is given twice: its images would be the same each time; ask for more with -n")
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
    executor: ExecutorName,
    workers: int,
    run_dir: Path | None,
    *,
    progress: bool,
) -> Iterator[dict[str, Any]]:
    """The sampler and judge, or the executor that makes them, and the run directory; its errors as ours."""
    from sana.best_of import make_executor
    from sana.judges import load_judge
    from sana.run_identity import claim_run
    from sana.sampler import load_sampler
    from sana_scale.files import RunInUseError
    from sana_scale.worker_processes import WorkersKilledError

    where = make_executor(executor, drawing, judge, workers=workers, progress=progress)
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
    with tqdm(total=number * len(prompts), unit="image", disable=not shown) as bar:

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
    facts: Mapping[str, Any],
    judge: str,
    curve: bool,
    as_json: bool,
) -> None:
    from sana.best_of import save_result, summary
    from sana_scale import best_of_k_curve, plot_curve, write_curve

    records = []
    for name, result in zip(slugs(prompts), results, strict=True):
        best = save_result(result, out, name, facts=facts, judge=judge)
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

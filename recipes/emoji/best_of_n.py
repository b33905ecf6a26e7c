"""Inference-time scaling on GenEval-emoji: correct images against N, and for fewer FLOPs (SANA-1.5)."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from recipes.emoji.best_of_n_plots import plot_experiment
from recipes.emoji.best_of_n_records import DetectorJudge, Record, Settings, draw
from recipes.emoji.best_of_n_replay import Flops, Outcome, replay, strategies
from recipes.emoji.release import EMBEDDED, ROOT
from recipes.emoji.run_folder import digest, weights_hash, write_json
from recipes.emoji.scenes import SIZE, contact_sheet
from sana.judges import EMBEDDED_JUDGE, load_judge
from sana.model_facts import model_facts
from sana.sampler import Drawing, PipelineSampler, load_pipeline
from sana_scale import Judge, Sampler, best_of_k_curve
from sana_scale.ranking import rank_correlation

RESULT = ROOT / "benchmarks" / "results" / "emoji-best-of-n.json"
DETECTOR = "detector"
REFERENCE = 64  # best of this many is what the other strategies are compared with


def report(records: Sequence[Record], settings: Settings, flops: Flops) -> dict[str, Any]:
    """Curves over all prompts and by task, and what each strategy gives for how much."""
    ks = [2**power for power in range(settings.images.bit_length())]
    tasks = list(dict.fromkeys(record.task for record in records))
    n = min(REFERENCE, settings.images)
    outcomes = [replay(records, way, flops, looks=settings.looks) for way in strategies(n)]
    return {
        "settings": asdict(settings),
        "flops": asdict(flops),
        "curve": _curve(records, ks),
        "tasks": {task: _curve([record for record in records if record.task == task], ks) for task in tasks},
        "strategies": [asdict(outcome) | {"flops_saved": outcomes[0].flops / outcome.flops} for outcome in outcomes],
        "cheapest_at_equal_score": asdict(cheapest(outcomes)),
        "judge_agrees_with_truth": fmean(_agreement(record) for record in records),
        "rank_correlation_of_looks": {
            str(at): fmean(rank_correlation(record.early[look], record.scores) for record in records)
            for look, at in enumerate(settings.looks)
        },
    }


def cheapest(outcomes: Sequence[Outcome]) -> Outcome:
    """Of those that score no less than the first, the one with the fewest FLOPs."""
    return min((one for one in outcomes if one.score >= outcomes[0].score), key=lambda one: one.flops)


def _curve(records: Sequence[Record], ks: Sequence[int]) -> dict[str, Any]:
    curve = best_of_k_curve(
        [record.scores for record in records], truth=[[float(right) for right in one.correct] for one in records], ks=ks
    )
    return asdict(curve)


def _agreement(record: Record) -> float:
    """How many images of a prompt the judge and the detector agree on, a score above a half being a yes."""
    return fmean((score > 0.5) == right for score, right in zip(record.scores, record.correct, strict=True))


def count_flops(model: str, judge: Judge[Image.Image], prompt: str) -> Flops:
    """What an image of a model takes, from its configuration, and one look of a judge, counted."""
    parts = model_facts(model).components
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        judge(prompt, [Image.new("RGB", (SIZE, SIZE), "white")])
    return Flops(
        denoise=parts["transformer"].flops_per_image,
        decode=parts["autoencoder"].flops_per_image,
        judge=counter.get_total_flops(),
    )


def winners(sample: Sampler[Image.Image], records: Sequence[Record], *, per_task: int = 2) -> Image.Image:
    """Of some prompts whose seed 0 is wrong: that image and the judge's pick, each drawn again from its seed."""
    pictures, captions = [], []
    for task in dict.fromkeys(record.task for record in records):
        wrong = [record for record in records if record.task == task and not record.correct[0] and any(record.correct)]
        for record in wrong[:per_task]:
            best = max(range(len(record.scores)), key=lambda seed: (record.scores[seed], -seed))
            for seed, what in ((0, "seed 0"), (best, f"best of {len(record.scores)}")):
                pictures += sample(record.prompt, [seed])
                captions.append(f"{what}: {record.prompt}")
    return contact_sheet(pictures, captions, columns=4 * per_task)


def _named(judge: str) -> str:
    """The judge with the hash of its files, where it is a folder here."""
    folder = EMBEDDED_JUDGE if judge == "embedded" else Path(judge)
    return f"{judge} {weights_hash(folder)}" if folder.is_dir() else judge


def main() -> None:
    """Draw, judge and measure, or go on; the result is a JSON file with plots beside it."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.best_of_n", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder, with its detector")
    parser.add_argument("--model", default="embedded", help="a pipeline folder")
    parser.add_argument("--judge", default="embedded", help=f'a judge as `sana best-of` takes it, or "{DETECTOR}"')
    parser.add_argument("--prompts-per-task", type=int, default=24)
    parser.add_argument("--images", type=int, default=256, metavar="N", help="a power of two")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--result", type=Path, default=RESULT, metavar="JSON")
    parser.add_argument("--device")
    options = parser.parse_args()
    if options.images.bit_count() != 1:
        parser.error(f"--images is {options.images}; give a power of two")

    truth = DetectorJudge.from_pretrained(options.out / "detector")
    judge: Judge[Image.Image] = truth
    if options.judge != DETECTOR:
        judge = load_judge(options.judge, device=options.device)
    folder = EMBEDDED if options.model == "embedded" else Path(options.model)
    settings = Settings(
        model=f"{options.model} {weights_hash(folder)}",
        judge=_named(options.judge),
        detector=digest(options.out / "detector"),
        prompts_per_task=options.prompts_per_task,
        images=options.images,
        batch_size=options.batch_size,
    )
    drawing = Drawing(model=options.model, device=options.device)
    sample = PipelineSampler(load_pipeline(drawing), drawing, batch_size=options.batch_size)
    slug = "".join(letter if letter.isalnum() else "-" for letter in options.judge)
    records = draw(sample, judge, truth, options.out / f"best-of-n-{slug}", settings)
    measured = report(records, settings, count_flops(options.model, judge, records[0].prompt))
    write_json(options.result, measured)
    plot_experiment(measured, options.result.with_suffix(".png"))
    winners(sample, records).save(options.result.with_name(f"{options.result.stem}-winners.png"))
    for way in measured["strategies"]:
        print(
            f"{way['name']:<40} {way['score']:.3f}  {way['images']:6.1f} images  {way['flops_saved']:5.2f}x fewer FLOPs"
        )


if __name__ == "__main__":
    main()

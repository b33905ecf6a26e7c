"""GenEval-emoji: GenEval's six tasks on held-out emoji prompts, seen by the independent detector."""

import argparse
import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from recipes.emoji.captions import LANGUAGES, caption
from recipes.emoji.contents import TASKS, Content, evaluation_contents
from recipes.emoji.detector import THRESHOLD, judge
from recipes.emoji.detector_network import Detector
from recipes.emoji.run_folder import append_line, claim, digest, finished_lines, write_json
from recipes.emoji.scenes import arrange, contact_sheet, render
from recipes.emoji.sprites import FontSprites, SpriteSheet
from sana import SanaPipeline
from sana_judge import Detection, Table, Verdict, geneval

Sampler = Callable[[str, Sequence[int]], Sequence[Image.Image]]
Detect = Callable[[Sequence[Image.Image]], Sequence[Sequence[Detection]]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What an evaluation measures; results of different settings never share a folder.

    model and detector name the weights (see `digest`); steps and guidance_scale are None for the model's own.
    """

    model: str
    detector: str
    language: str = "english"
    prompts_per_task: int = 24
    images_per_prompt: int = 4
    threshold: float = THRESHOLD
    steps: int | None = None
    guidance_scale: float | None = None


def evaluate(
    sample: Sampler,
    detect: Detect,
    out: Path,
    settings: Settings,
    *,
    sampling: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Table:
    """Judge images of every prompt; stopped at any time, it goes on after the last prompt that it finished.

    `out` holds GenEval's own layout (`images/00000/metadata.jsonl`, `images/00000/samples/00000.png`), a line of
    `results.jsonl` for every prompt, and at the end `table.json` and `sheet.png`. The table states the settings, the
    seeds, and, as `sampling` says it, what the model makes of settings that are None.

    Raises ValueError where `out` holds results of other settings.
    """
    claim(out, settings)
    contents = evaluation_prompts(settings.prompts_per_task)
    results = out / "results.jsonl"
    lines = finished_lines(results)
    for number in tqdm(range(len(lines), len(contents)), unit="prompt", disable=not progress):
        content, prompt = contents[number], caption(contents[number], settings.language)
        seeds = range(number * settings.images_per_prompt, (number + 1) * settings.images_per_prompt)
        images = sample(prompt, seeds)
        metadata = content.metadata(prompt)
        geneval.save_prompt(out / "images", number, metadata, images)
        found = detect(images)
        verdicts = [dataclasses.asdict(judge(seen, metadata)) for seen in found]
        line = {"number": number, "metadata": metadata, "english": caption(content, "english"), "seeds": list(seeds)}
        lines.append(line | {"verdicts": verdicts, "detections": [_as_json(seen) for seen in found]})
        append_line(results, lines[-1])
    table = geneval.table(Verdict(**verdict) for line in lines for verdict in line["verdicts"])
    seeds = [seed for line in lines for seed in line["seeds"]]
    stated = {**dataclasses.asdict(settings), **(sampling or {}), "seeds": f"{min(seeds)} to {max(seeds)}"}
    result = {"benchmark": "GenEval-emoji", "settings": stated, **dataclasses.asdict(table)}
    write_json(out / "table.json", result, indent=2)
    _sheet(out, lines).save(out / "sheet.png")
    return table


def evaluation_prompts(limit: int) -> list[Content]:
    """The prompts of all six tasks, `limit` of each; see `evaluation_contents` for what is held out."""
    return [content for task in TASKS for content in evaluation_contents(task, limit)]


def sampling_of(pipeline: SanaPipeline, *, steps: int | None, guidance_scale: float | None) -> dict[str, Any]:
    """How a pipeline draws: the sampler, and its own settings where none are given."""
    facts, is_sprint = pipeline.facts, pipeline.transformer.config.guidance_embeds
    return {
        "sampler": "SCM" if is_sprint else f"Flow-DPM-Solver (shift {facts.flow_shift})",
        "steps": facts.steps_for(is_sprint) if steps is None else steps,
        "guidance_scale": facts.guidance_scale if guidance_scale is None else guidance_scale,
    }


def real_renders(sprites: SpriteSheet, language: str) -> Sampler:
    """A sampler that draws what the prompt says: what it misses, the detector misses, so it is the ceiling."""
    contents = {caption(content, language): content for content in evaluation_prompts(limit=10**6)}

    def sample(prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
        scenes = [arrange(contents[prompt], sprites, random.Random(f"{prompt} {seed}")) for seed in seeds]
        return [Image.fromarray(render(scene, sprites)) for scene in scenes]

    return sample


def _as_json(found: Sequence[Detection]) -> list[dict[str, Any]]:
    return [
        {"class": seen.name, "color": seen.color, "score": round(seen.score, 4), "box": [round(x, 1) for x in seen.box]}
        for seen in found
    ]


def _sheet(out: Path, lines: Sequence[dict[str, Any]], *, prompts_per_task: int = 4) -> Image.Image:
    """All images of the first prompts of every task, two prompts in a row, each image with its verdict."""
    pictures, captions = [], []
    for task in TASKS:
        of_task = [line for line in lines if line["metadata"]["tag"] == task]
        for line in of_task[:prompts_per_task]:
            paths = sorted((out / "images" / f"{line['number']:05}" / "samples").glob("*.png"))
            pictures += [Image.open(path).convert("RGB") for path in paths]
            captions += [f"{'right' if v['correct'] else 'WRONG'}: {line['english']}" for v in line["verdicts"]]
    return contact_sheet(pictures, captions, columns=2 * len(lines[0]["verdicts"]))


def main() -> None:
    """Measure a model on GenEval-emoji, or go on measuring; the table is printed and left in DIR/table.json."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.geneval_emoji", description=main.__doc__)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--model", type=Path, metavar="DIR", help="a pipeline folder")
    subject.add_argument("--renders", action="store_true", help="real renders instead: the detector's ceiling")
    parser.add_argument("--detector", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--language", choices=LANGUAGES, default="english")
    parser.add_argument("--prompts-per-task", type=int, default=24)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance-scale", type=float)
    options = parser.parse_args()

    settings = Settings(
        model="real renders" if options.renders else digest(options.model),
        detector=digest(options.detector),
        language=options.language,
        prompts_per_task=options.prompts_per_task,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
    )
    sampling = None
    if options.renders:
        sample = real_renders(SpriteSheet(FontSprites()), options.language)
    else:
        pipe = SanaPipeline.from_pretrained(options.model)
        sampling = sampling_of(pipe, steps=options.steps, guidance_scale=options.guidance_scale)
        sample = partial(pipe, steps=options.steps, guidance_scale=options.guidance_scale, progress=False)
    print(evaluate(sample, Detector.from_pretrained(options.detector), options.out, settings, sampling=sampling))


if __name__ == "__main__":
    main()

"""Many images of every GenEval-emoji prompt, each judged half-way and at the end: drawn once, read many times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from recipes.emoji.captions import caption
from recipes.emoji.contents import Content
from recipes.emoji.detector import judge
from recipes.emoji.detector_network import Detector
from recipes.emoji.geneval_emoji import evaluation_prompts
from recipes.emoji.run_folder import append_line, claim, finished_lines
from sana_judge import Detection
from sana_scale import Judge, PreviewingSampler

LOOKS = (0.25, 0.5)
Detect = Callable[[Sequence[Image.Image]], Sequence[Sequence[Detection]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What was drawn and by whom it was judged; records of different settings never share a folder."""

    model: str
    judge: str
    detector: str
    prompts_per_task: int = 24
    images: int = 64
    batch_size: int = 32
    looks: tuple[float, ...] = LOOKS


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The images of one prompt, in the order of their seeds 0, 1, ...

    early: the judge's scores of the previews, one tuple for each look; scores: of the images; correct: what the
    independent detector says of them.
    """

    task: str
    prompt: str
    early: tuple[tuple[float, ...], ...]
    scores: tuple[float, ...]
    correct: tuple[bool, ...]


class DetectorJudge:
    """The detector as a judge that is never wrong by its own measure: 1 for a correct image, else 0."""

    def __init__(self, detect: Detect) -> None:
        self.detect = detect
        self.metadata = {prompt: content.metadata(prompt) for content, prompt in prompts(limit=10**6)}

    @classmethod
    def from_pretrained(cls, folder: Path) -> "DetectorJudge":
        """With the detector that training wrote into `folder`."""
        return cls(Detector.from_pretrained(folder))

    def __call__(self, prompt: str, images: Sequence[Image.Image]) -> list[float]:
        """Whether each image is correct."""
        return [float(judge(found, self.metadata[prompt]).correct) for found in self.detect(images)]


def prompts(limit: int) -> list[tuple[Content, str]]:
    """The prompts of all six tasks in English, `limit` of each."""
    return [(content, caption(content, "english")) for content in evaluation_prompts(limit)]


def draw(
    sample: PreviewingSampler[Image.Image],
    judge: Judge[Image.Image],
    truth: DetectorJudge,
    out: Path,
    settings: Settings,
    *,
    progress: bool = True,
) -> list[Record]:
    """Draw what `out` lacks, and return all records; stopped at any time, it goes on after the last finished batch.

    Raises ValueError where `out` holds records of other settings.
    """
    claim(out, settings)
    lines = finished_lines(out / "images.jsonl")
    wanted = prompts(settings.prompts_per_task)
    batches = [
        (number, start) for number in range(len(wanted)) for start in range(0, settings.images, settings.batch_size)
    ]
    for number, start in tqdm(batches[len(lines) :], unit="batch", disable=not progress):
        prompt, seeds = wanted[number][1], range(start, min(start + settings.batch_size, settings.images))
        lines.append({"number": number, **_one_batch(sample, judge, truth, prompt, seeds, settings.looks)})
        append_line(out / "images.jsonl", lines[-1])
    return [
        _joined([line for line in lines if line["number"] == number], content.tag, prompt)
        for number, (content, prompt) in enumerate(wanted)
    ]


def _one_batch(
    sample: PreviewingSampler[Image.Image],
    judge: Judge[Image.Image],
    truth: DetectorJudge,
    prompt: str,
    seeds: Sequence[int],
    looks: Sequence[float],
) -> dict[str, Any]:
    early: list[list[float]] = []

    def keep_all(previews: Sequence[Image.Image]) -> range:
        early.append(list(judge(prompt, previews)))
        return range(len(previews))

    images = [image for _, image in sample.previewing(prompt, seeds, at=looks, keep=keep_all)]
    return {
        "early": early,
        "scores": list(judge(prompt, images)),
        "correct": [verdict == 1 for verdict in truth(prompt, images)],
    }


def _joined(lines: Sequence[dict[str, Any]], task: str, prompt: str) -> Record:
    looks = zip(*(line["early"] for line in lines), strict=True)
    return Record(
        task=task,
        prompt=prompt,
        early=tuple(tuple(score for part in look for score in part) for look in looks),
        scores=tuple(score for line in lines for score in line["scores"]),
        correct=tuple(correct for line in lines for correct in line["correct"]),
    )

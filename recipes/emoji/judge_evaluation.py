"""What the emoji judge can do: order and certainty on held-out prompts, of real renders and of the model's samples."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from recipes.emoji.contents import TASKS, evaluation_contents
from recipes.emoji.detector import judge as verdict
from recipes.emoji.judge_batches import SamplePictures
from recipes.emoji.judge_samples import HELD_OUT_PER_TASK
from recipes.emoji.judge_scenes import held_out_scene
from recipes.emoji.sprites import SpriteSheet
from sana_judge import VILAJudge
from sana_judge.training import JudgedExample, calibrated_facts, judge_report


@dataclass(frozen=True, slots=True)
class Case:
    """A picture, a prompt, whether the picture shows it, and the task that the prompt belongs to."""

    image: Image.Image
    prompt: str
    label: float
    task: str


def scene_cases(sprites: SpriteSheet) -> list[Case]:
    """Every held-out prompt about renders that show it and renders that just miss it."""
    cases = []
    for task in TASKS:
        for content in evaluation_contents(task, HELD_OUT_PER_TASK):
            for shown in held_out_scene(content, sprites, random.Random(f"judge test {content}")):
                (asked,) = shown.asked
                cases.append(Case(Image.fromarray(shown.pixels), asked.prompt, asked.label, task))
    return cases


def sample_cases(samples: SamplePictures) -> list[Case]:
    """Every sample and the prompt that it was drawn for, labelled by the independent detector."""
    return [
        Case(
            Image.fromarray(pixels),
            sample.prompt,
            float(verdict(sample.found, sample.content.metadata(sample.prompt)).correct),
            sample.content.tag,
        )
        for sample, pixels in zip(samples.samples, samples.pixels, strict=True)
    ]


def judged(judge: VILAJudge, cases: Sequence[Case]) -> list[JudgedExample]:
    """What the judge says of each case."""
    scores = judge.score([case.prompt for case in cases], [case.image for case in cases])
    return [
        JudgedExample(margin=score.margin, p_yes=score.p_yes, label=case.label, group=case.prompt, task=case.task)
        for score, case in zip(scores, cases, strict=True)
    ]


def calibrate(judge: VILAJudge, samples: SamplePictures) -> None:
    """Fit the judge's probabilities to samples of prompts that it was not trained on.

    Raises ValueError where right samples do not get larger margins than wrong ones.
    """
    judge.facts = calibrated_facts(judge.facts, judged(judge, sample_cases(samples)))


def measure(judge: VILAJudge, sprites: SpriteSheet, samples: SamplePictures) -> dict[str, Any]:
    """The report on held-out prompts, as JSON."""
    return {
        "scenes": judge_report(judged(judge, scene_cases(sprites))),
        "samples": judge_report(judged(judge, sample_cases(samples))),
    }

"""Soft-TIFA, GenEval 2's measure (Kamath et al., 2025, arXiv:2512.16853): how probable each right answer is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol

from tqdm import tqdm

from sana_judge.image_reading import ImageLike
from sana_judge.judge_call import pair_prompts
from sana_judge.whole_files import parse_json_lines

INSTRUCTION = " Answer in one word."

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, kw_only=True, slots=True)
class Atom:
    """One fact of a prompt: the question, the right answer ("Yes", or a number in words), and its skill."""

    question: str
    answer: str
    skill: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class AtomicPrompt:
    """A prompt, its atoms, and how compositional GenEval 2 says it is (an "a" is asked about but not counted)."""

    prompt: str
    atoms: tuple[Atom, ...]
    atom_count: int


class AnswerJudge(Protocol):
    """What answers questions about an image by probabilities."""

    def __call__(self, image: ImageLike, asked: Sequence[tuple[str, Sequence[str]]], /) -> Sequence[float]:
        """Returns, per (question, spellings), the probability that the answer begins with any of the spellings.

        That is the sum, over the spellings that are a token, of the first token's probability.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftTIFATable:
    """Shares in [0, 1]; GenEval 2 prints them times 100.

    arithmetic: mean over prompts of the mean over atoms; geometric: of the geometric mean; skills: mean over the atoms
    of a skill; atomicities: geometric means averaged over the prompts of an atom_count; atoms: by prompt, in order.
    """

    arithmetic: float
    geometric: float
    skills: dict[str, float]
    atomicities: dict[int, float]
    atoms: dict[str, list[float]]


def read_geneval2(path: str | PathLike[str]) -> list[AtomicPrompt]:
    """Read geneval2_data.jsonl (CC BY-NC 4.0, not part of this package).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is something else: names it.
    """
    return parse_json_lines(Path(path), _parse, remedy="it is not a prompt of GenEval 2: fetch the file again")


def spellings(answer: str) -> tuple[str, ...]:
    """The beginnings that count as an answer: with and without a space, either case, and a number's digits, too."""
    word = answer.strip().lower()
    digits = [str(_NUMBERS.index(word))] if word in _NUMBERS else []
    return tuple(f"{space}{form}" for form in (word, word.capitalize(), *digits) for space in ("", " "))


class SoftTIFA:
    """Scores images of known prompts by the atoms of GenEval 2; a judge like any other for selection.

    `SoftTIFA(prompts, judge)(prompt, images)` gives one number per image; `evaluate` the benchmark's table.
    """

    def __init__(
        self,
        prompts: Sequence[AtomicPrompt],
        judge: AnswerJudge,
        *,
        mean: Literal["geometric", "arithmetic"] = "geometric",
        progress: bool = True,
    ):
        """Takes what `read_geneval2` reads. Raises ValueError for a prompt without atoms, or one that comes twice."""
        self.prompts = {prompt.prompt: prompt for prompt in prompts}
        if len(self.prompts) < len(prompts):
            raise ValueError(f"{len(prompts) - len(self.prompts)} of {len(prompts)} prompts come twice: give each once")
        for prompt in prompts:
            if not prompt.atoms:
                raise ValueError(f"{prompt.prompt!r} has no atoms; give at least one question")
        if mean not in _MEANS:
            raise ValueError(f"mean is {mean!r}; it must be one of {', '.join(_MEANS)}")
        self.judge = judge
        self.mean = mean
        self.progress = progress

    def __call__(self, prompt: str | Sequence[str], images: Sequence[ImageLike]) -> list[float]:
        """Returns the mean of each image's atoms. Raises ValueError for a prompt without known atoms."""
        return [_MEANS[self.mean](scores) for scores in self.score(prompt, images)]

    def score(self, prompt: str | Sequence[str], images: Sequence[ImageLike]) -> list[list[float]]:
        """Returns each image's probabilities of the right answers, atom by atom."""
        prompts = pair_prompts(prompt, images)
        if unknown := [each for each in prompts if each not in self.prompts]:
            raise ValueError(
                f"{unknown[0]!r} is not a prompt of the data; give its atoms, or one of {len(self.prompts)}"
            )
        pairs = zip(prompts, images, strict=True)
        with tqdm(pairs, total=len(prompts), desc="Soft-TIFA", delay=1, disable=not self.progress) as bar:
            return [self._atoms(self.prompts[each], image) for each, image in bar]

    def evaluate(self, images: Mapping[str, ImageLike]) -> SoftTIFATable:
        """Returns the table of one image per prompt, as GenEval 2 takes them: a mapping from prompts to images.

        Raises ValueError where a prompt has no image.
        """
        if missing := [prompt for prompt in self.prompts if prompt not in images]:
            raise ValueError(f"{len(missing)} prompts have no image, such as {missing[0]!r}: give one for each")
        names = list(self.prompts)
        return summarize(
            dict(zip(names, self.score(names, [images[name] for name in names]), strict=True)), self.prompts
        )

    def _atoms(self, prompt: AtomicPrompt, image: ImageLike) -> list[float]:
        asked = [(atom.question + INSTRUCTION, spellings(atom.answer)) for atom in prompt.atoms]
        scores = [float(score) for score in self.judge(image, asked)]
        # The sum of rounded probabilities may exceed 1 by a little.
        if len(scores) != len(asked) or not all(0 <= score <= 1.001 for score in scores):
            raise ValueError(f"the judge answered {scores} to {len(asked)} questions; it must give a probability each")
        return [min(score, 1.0) for score in scores]


def summarize(atoms: Mapping[str, Sequence[float]], prompts: Mapping[str, AtomicPrompt]) -> SoftTIFATable:
    """Sum up the probabilities of every prompt's atoms. Raises ValueError when there are none."""
    if not atoms:
        raise ValueError("no prompts: a table needs at least one")
    skills: dict[str, list[float]] = {}
    atomicities: dict[int, list[float]] = {}
    for prompt, scores in atoms.items():
        for atom, score in zip(prompts[prompt].atoms, scores, strict=True):
            skills.setdefault(atom.skill, []).append(score)
        atomicities.setdefault(prompts[prompt].atom_count, []).append(_geometric(scores))
    return SoftTIFATable(
        arithmetic=_arithmetic([_arithmetic(scores) for scores in atoms.values()]),
        geometric=_arithmetic([_geometric(scores) for scores in atoms.values()]),
        skills={skill: _arithmetic(scores) for skill, scores in sorted(skills.items())},
        atomicities={count: _arithmetic(means) for count, means in sorted(atomicities.items())},
        atoms={prompt: list(scores) for prompt, scores in atoms.items()},
    )


def _parse(record: Mapping[str, Any]) -> AtomicPrompt:
    asked = record["vqa_list"]
    skills = record.get("skills", [""] * len(asked))
    atoms = [
        Atom(question=str(question), answer=str(answer), skill=str(skill))
        for (question, answer), skill in zip(asked, skills, strict=True)
    ]
    return AtomicPrompt(prompt=str(record["prompt"]), atoms=tuple(atoms), atom_count=int(record["atom_count"]))


def _arithmetic(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _geometric(scores: Sequence[float]) -> float:
    return math.exp(_arithmetic([math.log(score) for score in scores])) if min(scores) > 0 else 0.0


_MEANS = {"geometric": _geometric, "arithmetic": _arithmetic}

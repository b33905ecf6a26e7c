"""judge.json: what a checkpoint's own files have no place for, the question it was trained on and its calibration."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from sana_judge.checkpoint_reading import read_json
from sana_judge.judge_score import Calibration
from sana_judge.vila.prompt import RELEASED_QUESTION
from sana_judge.whole_files import write_json

FACTS = "judge.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeFacts:
    """What a judge was trained on and what its margins mean.

    Attributes:
        question: The wording, with {prompt} where the prompt belongs.
        calibration: What turns margins into probabilities.
        tasks: The same for prompts that are known to be of one task, such as "counting".
        licence: Of the weights this judge was trained from, which also governs derived weights; None if unknown.
    """

    question: str = RELEASED_QUESTION
    calibration: Calibration = field(default_factory=Calibration)
    tasks: Mapping[str, Calibration] = field(default_factory=dict)
    licence: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.licence, str | None):
            raise ValueError(f"licence is {self.licence!r}; it must be a name such as cc-by-nc-4.0, or none")

    def calibration_of(self, task: str | None) -> Calibration:
        """Returns the calibration of a task; None takes the one for all prompts.

        Raises ValueError if there is none for that task.
        """
        if task is None:
            return self.calibration
        if task not in self.tasks:
            raise ValueError(f"task {task!r} has no calibration; the judge has {sorted(self.tasks)}, or give none")
        return self.tasks[task]

    def write(self, root: Path) -> None:
        """Writes judge.json, whole or not at all."""
        write_json(root / FACTS, asdict(self))

    @classmethod
    def read(cls, root: Path) -> Self:
        """Reads judge.json; without it, the released question and no calibration.

        Raises:
            ValueError: The file has unknown fields or values that cannot be used: names them.
        """
        path = root / FACTS
        facts = read_json(path)
        _check_known(facts, cls, path)
        calibration, tasks = facts.get("calibration", {}), facts.get("tasks", {})
        if not isinstance(tasks, dict):
            raise ValueError(f"{path} has tasks {tasks!r}; it must be an object with a calibration for each task")
        for given in (calibration, *tasks.values()):
            _check_known(given, Calibration, path)
        try:
            of_tasks = {task: Calibration(**given) for task, given in tasks.items()}
            return cls(**{**facts, "calibration": Calibration(**calibration), "tasks": of_tasks})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error


def _check_known(given: dict[str, Any], expected: type[Any], path: Path) -> None:
    known = [known.name for known in fields(expected)]
    if not isinstance(given, dict) or set(given) - set(known):
        raise ValueError(f"{path} has {given!r}; it must be an object with fields of {known}")

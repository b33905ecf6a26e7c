"""judge.json: what a checkpoint's own files have no place for, the question it was trained on and its calibration."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from sana_judge.checkpoint_reading import read_json
from sana_judge.judge_prompt import RELEASED_QUESTION
from sana_judge.judge_score import Calibration

FACTS = "judge.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeFacts:
    """The question, with {prompt} where the prompt belongs, and what turns margins into probabilities."""

    question: str = RELEASED_QUESTION
    calibration: Calibration = field(default_factory=Calibration)

    @classmethod
    def read(cls, root: Path) -> Self:
        """Reads judge.json; without it, the released question and no calibration.

        Raises:
            ValueError: The file has unknown fields or values that cannot be used: names them.
        """
        path = root / FACTS
        facts = read_json(path)
        _check_known(facts, cls, path)
        calibration = facts.get("calibration", {})
        _check_known(calibration, Calibration, path)
        try:
            return cls(**{**facts, "calibration": Calibration(**calibration)})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error


def _check_known(given: dict[str, Any], expected: type[Any], path: Path) -> None:
    known = [known.name for known in fields(expected)]
    if not isinstance(given, dict) or set(given) - set(known):
        raise ValueError(f"{path} has {given!r}; it must be an object with fields of {known}")

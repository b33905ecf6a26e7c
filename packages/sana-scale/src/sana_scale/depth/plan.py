"""The plan of a pruning: a small JSON file that reproduces it, for the model it was made for."""

import dataclasses
import json
import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self

from sana_scale.files import write_json

_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunePlan:
    """Which blocks of which model stay, and why.

    Attributes:
        depth: blocks of the unpruned model.
        kept: indices of the blocks that stay, ascending.
        blocks: the model's attribute that holds them.
        selector: how they were chosen, in words.
        scores: the score of each of the `depth` blocks, or None where they were listed.
        standard_errors: of the scores, where known.
        calibration: hash of the calibration data (`calibration_hash`), or None where it is not known.
        model: hash of the unpruned weights (`model_hash`).
        pruned: hash of the pruned weights.
    """

    depth: int
    kept: tuple[int, ...]
    blocks: str = "blocks"
    selector: str
    scores: tuple[float, ...] | None = None
    standard_errors: tuple[float, ...] | None = None
    calibration: str | None = None
    model: str
    pruned: str

    def __post_init__(self) -> None:
        if not self.kept or list(self.kept) != sorted(set(self.kept)):
            raise ValueError(f"kept is {self.kept}; it must be ascending indices of blocks, at least one")
        if not 0 <= self.kept[0] <= self.kept[-1] < self.depth:
            raise ValueError(f"kept is {self.kept} and depth {self.depth}; indices must be 0 to {self.depth - 1}")
        for name in ("scores", "standard_errors"):
            values = getattr(self, name)
            if values is not None and len(values) != self.depth:
                raise ValueError(f"{name} has {len(values)} values and depth is {self.depth}; give one for each block")

    @property
    def removed(self) -> tuple[int, ...]:
        """The blocks that go, ascending."""
        return tuple(sorted(set(range(self.depth)) - set(self.kept)))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the plan as JSON, whole or not at all; not finite errors become null."""
        fields = {"format": _FORMAT, **dataclasses.asdict(self)}
        if self.standard_errors is not None:
            fields["standard_errors"] = [error if math.isfinite(error) else None for error in self.standard_errors]
        write_json(Path(path), fields)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a plan.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is not a plan, or of another version.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**_checked(fields))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is no pruning plan: {error}") from error


def _checked(fields: Any) -> dict[str, Any]:
    if not isinstance(fields, dict) or fields.pop("format", None) != _FORMAT:
        raise ValueError(f"it is not a JSON object with format {_FORMAT}")
    known = {field.name for field in dataclasses.fields(PrunePlan)}
    if missing := known ^ fields.keys():
        raise ValueError(f"these fields are missing or unknown: {', '.join(sorted(missing))}")
    for name in ("kept", "scores"):
        if fields[name] is not None:
            fields[name] = tuple(fields[name])
    if fields["standard_errors"] is not None:
        fields["standard_errors"] = tuple(math.nan if e is None else float(e) for e in fields["standard_errors"])
    return fields

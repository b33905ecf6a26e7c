"""The plan of a pruning: a small JSON file that reproduces it, for the model it was made for."""

import dataclasses
import json
import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar

from torch import nn

from sana_scale.depth.block_list import block_list
from sana_scale.depth.fingerprint import calibration_hash, model_hash
from sana_scale.files import write_json

_FORMAT = 1

Model = TypeVar("Model", bound=nn.Module)


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

    def apply(
        self, model: Model, *, blocks: str | None = None, calibration: Any = None, allow_other_model: bool = False
    ) -> Model:
        """Prune `model` in place as this plan says.

        Args:
            model: the model that the plan was made for, in the dtype that it was made in.
            blocks: the attribute that holds the blocks; None takes the plan's, or finds it in another model.
            calibration: what the calibration was described by; None does not check it.
            allow_other_model: prune a model of the same depth whose weights are others, such as a fine-tuned one.

        Raises:
            ValueError: the model, its depth or the calibration is another than the plan's; the model stays as it was.
        """
        known = blocks or (self.blocks if not allow_other_model or hasattr(model, self.blocks) else None)
        held = block_list(model, known)
        held.check_depth()
        if len(held.blocks) != self.depth:
            raise ValueError(f"the plan is for a model of {self.depth} blocks; this one has {len(held.blocks)}")
        if calibration is not None and calibration_hash(calibration) != self.calibration:
            raise ValueError(
                f"the plan's calibration has the hash {self.calibration}, the one given "
                f"{calibration_hash(calibration)}: measure again, or give the data that the plan was made with"
            )
        if not allow_other_model and (found := model_hash(model)) != self.model:
            raise ValueError(
                f"the plan is for weights with the hash {self.model}, these have {found}: load the same model in the "
                "same dtype, measure this one, or allow another model"
            )
        held.keep(self.kept)
        return model

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
            raise ValueError(f"{path} is not a pruning plan: {error}") from error


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

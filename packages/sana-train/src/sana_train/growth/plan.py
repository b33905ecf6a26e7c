"""The plan of a growth: a small JSON file that reproduces it, for the model it was made for."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from torch import nn

from sana_train.folders import replace_file
from sana_train.growth.arrangement import IDENTITIES, INITS, Init, first_places
from sana_train.growth.block_list import BlockList, block_list
from sana_train.growth.fingerprint import combined_hash, tensor_hashes
from sana_train.growth.renumbering import renumbered
from sana_train.growth.surgery import deeper

Model = TypeVar("Model", bound=nn.Module)

_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthPlan:
    """Which blocks a deeper model has, where each begins, and the weights before and after.

    Attributes:
        depth: blocks of the source.
        sources: for each block of the grown model the block of the source that it begins as, None for a fresh one.
        blocks: the model's attribute that holds them.
        init: how the sources were arranged, and whether new blocks begin as identities.
        seed: of the fresh blocks.
        model: hash of the source's weights (`model_hash`).
        grown: hash of the grown weights.
        change: by the type computed in, such as "bfloat16", the greatest |difference| of an output element that growing
            made; None where it was not measured.
    """

    depth: int
    sources: tuple[int | None, ...]
    blocks: str = "blocks"
    init: Init
    seed: int
    model: str
    grown: str
    change: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise ValueError(f"init is {self.init!r}; it must be one of {', '.join(INITS)}")
        if len(self.sources) <= self.depth:
            raise ValueError(f"sources has {len(self.sources)} blocks and depth is {self.depth}; a plan adds blocks")
        staying = [self.sources[place] for place in self.staying]
        if not staying or staying != list(range(len(staying))) or len(staying) > self.depth:
            raise ValueError(
                f"sources is {self.sources} and depth {self.depth}; it must name blocks 0, 1, ... of the source, each "
                "for the first time in this order"
            )

    @property
    def staying(self) -> tuple[int, ...]:
        """The places of the source's blocks 0, 1, ... in the grown model."""
        return first_places(self.sources)

    @property
    def new(self) -> tuple[int, ...]:
        """The places of new blocks."""
        return tuple(sorted(set(range(len(self.sources))) - set(self.staying)))

    @property
    def drop_last(self) -> int:
        """How many blocks of the source are left out, all at its end."""
        return self.depth - len(self.staying)

    @property
    def preserves(self) -> bool:
        """Whether the grown model is the same function as its source."""
        return self.init in IDENTITIES and self.drop_last == 0

    def apply(self, model: Model, *, progress: bool = True) -> Model:
        """Grow `model` in place as this plan says.

        Args:
            model: the model that the plan was made for, in the dtype that it was made in.
            progress: whether a bar counts blocks.

        Raises:
            ValueError: the model is another, or its new blocks are not those of the plan; the model stays as it was.
        """
        held = block_list(model, self.blocks)
        held.check_depth()
        if len(held.blocks) != self.depth:
            raise ValueError(f"the plan is for a model of {self.depth} blocks; this one has {len(held.blocks)}")
        hashes = tensor_hashes(model)
        if (found := combined_hash(hashes)) != self.model:
            raise ValueError(
                f"the plan is for weights with the hash {self.model}, these have {found}: load the same model in the "
                "same dtype, or make a plan for this one"
            )
        grown = deeper(list(held.blocks), self.sources, init=self.init, seed=self.seed, progress=progress)
        if (found := grown_hash(held, hashes, grown, self.sources)) != self.grown:
            raise ValueError(
                f"the plan makes weights with the hash {self.grown}, here they would have {found}: torch or the blocks "
                "draw other numbers than where the plan was made"
            )
        held.replace(grown)
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, whole or not at all."""
        fields = {"format": _FORMAT, **dataclasses.asdict(self)}
        replace_file(Path(path), (json.dumps(fields, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a plan.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is not a plan, or of another version.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**_checked(fields))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a growth plan: {error}") from error


def grown_hash(
    held: BlockList, hashes: Mapping[str, str], grown: list[nn.Module], sources: tuple[int | None, ...]
) -> str:
    """The hash of the weights with the blocks `grown`; of what stays, the source's `hashes` are used."""
    names = renumbered(hashes, held.name, depth=len(held.blocks), sources=sources)
    after = {new: hashes[name] for name, new in names.items()}
    for place in sorted(set(range(len(grown))) - set(first_places(sources))):
        after |= tensor_hashes(grown[place], prefix=f"{held.name}.{place}.")
    return combined_hash(after)


def _checked(fields: Any) -> dict[str, Any]:
    if not isinstance(fields, dict) or fields.pop("format", None) != _FORMAT:
        raise ValueError(f"it is not a JSON object with format {_FORMAT}")
    known = {field.name for field in dataclasses.fields(GrowthPlan)}
    if missing := known ^ fields.keys():
        raise ValueError(f"these fields are missing or unknown: {', '.join(sorted(missing))}")
    wrong = [name for name, fits in _FITS.items() if not fits(fields[name])]
    if wrong:
        raise ValueError(f"{wrong[0]} is {json.dumps(fields[wrong[0]])[:80]}, which a plan cannot have")
    fields["sources"] = tuple(fields["sources"])
    return fields


def _is_whole(value: Any) -> bool:
    return type(value) is int  # not a bool


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_change(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and all(type(number) in (int, float) for number in value.values())


_FITS: dict[str, Callable[[Any], bool]] = {
    "depth": _is_whole,
    "sources": lambda value: isinstance(value, list) and all(x is None or _is_whole(x) for x in value),
    "blocks": _is_text,
    "init": _is_text,
    "seed": _is_whole,
    "model": _is_text,
    "grown": _is_text,
    "change": _is_change,
}

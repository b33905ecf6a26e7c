"""Units of work: a batch of seeds to draw, what was made of it, and the record that stays of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Self, TypeVar

Image = TypeVar("Image")


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A batch to draw: seeds of a prompt, and the fractions `at` of the steps after which the best `keep` go on."""

    index: int
    prompt: str
    seeds: tuple[int, ...]
    at: tuple[float, ...] = ()
    keep: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """The judge's scores of images that were denoised to the fraction `at` of their steps."""

    at: float
    seeds: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """The record of one batch: its finished seeds in order, their scores, and what pruning saw on the way.

    `seconds` is the time from the start of the run, over all its sittings, until this record was written.
    """

    index: int
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    looks: tuple[Look, ...] = ()
    seconds: float = 0.0

    @property
    def pruned(self) -> tuple[int, ...]:
        """The seeds that were given up on, in order."""
        return tuple(sorted(set(self.looks[0].seeds) - set(self.seeds))) if self.looks else ()

    @property
    def cost(self) -> float:
        """Denoising spent, in whole images."""
        leaving = [*(set(look.seeds) for look in self.looks), set(self.seeds)]
        gone = (look.at * len(leaving[stage] - leaving[stage + 1]) for stage, look in enumerate(self.looks))
        return len(self.seeds) + sum(gone)

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The unit that `to_json` described."""
        looks = tuple(
            Look(at=look["at"], seeds=tuple(look["seeds"]), scores=tuple(look["scores"])) for look in record["looks"]
        )
        return cls(
            index=record["index"],
            seeds=tuple(record["seeds"]),
            scores=tuple(record["scores"]),
            looks=looks,
            seconds=record["seconds"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn(Generic[Image]):
    """A batch of finished images that wait for the judge."""

    index: int
    seeds: tuple[int, ...]
    images: Sequence[Image]
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged(Generic[Image]):
    """A unit's record with its images by their seeds, all or those that may still win; None where they are stored."""

    unit: Unit
    images: Mapping[int, Image] | None = None

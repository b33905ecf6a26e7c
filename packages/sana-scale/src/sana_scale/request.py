"""What one run of best-of-N is asked for, and how its seeds fall into batches."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Self

from sana_scale.halving import Halving
from sana_scale.stopping import StopRule
from sana_scale.whole_numbers import whole_number

_PLAIN = ("prompt", "n", "keep", "seed", "batch_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The arguments of a run that its result depends on."""

    prompt: str
    n: int
    keep: int = 1
    seed: int = 0
    batch_size: int = 8
    stop: tuple[StopRule, ...] = ()
    prune: Halving | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise TypeError(f"prompt is {self.prompt!r}; it must be one str: best_of_n_many takes several")
        for name, least in (("n", 1), ("keep", 1), ("seed", 0), ("batch_size", 1)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=least))
        if self.n < self.keep:
            raise ValueError(f"n is {self.n} and keep {self.keep}; n must be at least keep: draw more or keep fewer")
        if self.prune and self.finished_at_least < self.keep:
            raise ValueError(
                f"{self.prune} may finish only {self.finished_at_least} of n={self.n} images in batches of "
                f"{self.batch_size}; keep={self.keep} needs more"
            )
        for rule in self.stop:
            if not callable(rule):
                raise TypeError(f"stop is {rule!r}; it must be a rule such as Threshold(0.95), or several of them")

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """What a worker has to know of a described request: all but the stopping rules, which the driver asks."""
        plain = {name: description[name] for name in _PLAIN}
        prune = dict(description["prune"] or {})
        prune.pop("rule", None)
        return cls(**plain, prune=Halving(**prune) if prune else None)

    @property
    def units(self) -> int:
        """The number of batches."""
        return -(-self.n // self.batch_size)

    @property
    def pilot_units(self) -> int:
        """The number of batches at the start that are drawn whole to learn whether pruning can work."""
        return -(-self.prune.pilot // self.batch_size) if self.prune else 0

    @property
    def finished_at_least(self) -> int:
        """How many images are drawn to the end when everything is pruned that may be."""
        pilot = min(self.n, self.pilot_units * self.batch_size)
        return pilot + max(0, self.units - self.pilot_units)

    def seeds(self, index: int) -> range:
        """The seeds of one batch."""
        first = self.seed + index * self.batch_size
        return range(first, min(first + self.batch_size, self.seed + self.n))

    def described(self) -> dict[str, Any]:
        """The request as a JSON object.

        Raises:
            TypeError: a stopping rule is not a dataclass, so it cannot be written down.
        """
        plain = {name: getattr(self, name) for name in _PLAIN}
        rules = [_described(rule) for rule in self.stop]
        rules_and_all = plain | {"stop": rules, "prune": self.prune and _described(self.prune)}
        as_read_back: dict[str, Any] = json.loads(json.dumps(rules_and_all))
        return as_read_back


def _described(rule: object) -> dict[str, Any]:
    if not is_dataclass(rule) or isinstance(rule, type):
        raise TypeError(f"a run directory needs stopping rules that are dataclasses, to write them down; got {rule!r}")
    return {"rule": type(rule).__name__, **asdict(rule)}

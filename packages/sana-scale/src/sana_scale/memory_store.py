"""A run without a directory: the records and the images that lead, for as long as the call lasts."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from sana_scale.units import Unit

Image = TypeVar("Image")


class Memory(Generic[Image]):
    """The records and images of one run, in memory."""

    def __init__(self) -> None:
        self._images: dict[int, Image] = {}
        self._outcome: dict[str, Any] | None = None

    def recorded(self, index: int) -> Unit | None:
        """None: nothing outlives the call."""
        return None

    def put(self, unit: Unit, images: Mapping[int, Image]) -> None:
        """Take in the images of a unit that may still win."""
        self._images.update(images)

    def retain(self, seeds: Sequence[int]) -> None:
        """Forget every image but those of `seeds`."""
        self._images = {seed: self._images[seed] for seed in seeds}

    def outcome(self) -> dict[str, Any] | None:
        """The result once there is one."""
        return self._outcome

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Take in the result."""
        self._outcome = dict(outcome)

    def sweep(self) -> None:
        """Nothing: `retain` has left only the images that lead."""

    def kept(self) -> dict[int, Image]:
        """The images that lead, by their seeds."""
        return self._images

"""Where a run's batches are drawn and judged."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sana_scale.search import Search
from sana_scale.streaming import streamed
from sana_scale.units import Drawn, Judged

Batch = tuple[Search[Any], int]
"""A search and the index of a unit of it."""

Make = Callable[[Iterable[Batch]], Generator[tuple[Search[Any], Judged[Any]], None, None]]
"""Makes batches, given in the order in which they are wanted, and yields them judged in that order; it may be closed
early. The next batch is asked for only when there is room for it."""


@runtime_checkable
class Executor(Protocol):
    """Makes batches somewhere. The result of a run does not depend on which executor made it."""

    @property
    def brings_its_own(self) -> bool:
        """Whether it makes sampler and judge itself and works through a run directory; best_of_n gets None for both."""

    def working(self, searches: Sequence[Search[Any]], run_dir: Path | None) -> AbstractContextManager[Make]:
        """Within this context batches of `searches`, whose runs are kept in `run_dir`, can be made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Local:
    """This process: the judge in a second thread while the next batch is drawn, unless `overlap` is off.

    Without overlap at most the rest of one batch is drawn in vain when a stopping rule ends the run, instead of one
    batch more; that is the better choice where sampler and judge share one busy device.
    """

    overlap: bool = True

    @property
    def brings_its_own(self) -> bool:
        """False: it uses the sampler and the judge of the call."""
        return False

    @contextmanager
    def working(self, searches: Sequence[Search[Any]], run_dir: Path | None) -> Iterator[Make]:
        """Within this context batches are made by the sampler and the judge of their searches."""
        yield lambda batches: streamed(batches, _draw, _judge, waits=_waits, overlap=self.overlap)


def check_makers(executor: Executor, sample: object, judge: object, run_dir: str | Path | None) -> None:
    """Raise where an executor and the sampler and judge of a call do not go together."""
    if executor.brings_its_own:
        if run_dir is None:
            raise ValueError(f"{type(executor).__name__} works through a run directory: give run_dir=")
        if sample is not None or judge is not None:
            raise ValueError(f"{type(executor).__name__} makes its own sampler and judge: pass None for both")
    elif not callable(sample) or not callable(judge):
        raise TypeError(f"the sampler is {sample!r} and the judge {judge!r}; both must be callable")


def _draw(batch: Batch) -> tuple[Search[Any], Drawn[Any] | Judged[Any]]:
    search, index = batch
    return search, search.draw(index)


def _judge(drawn: tuple[Search[Any], Drawn[Any] | Judged[Any]]) -> tuple[Search[Any], Judged[Any]]:
    search, images = drawn
    return search, search.judge(images)


def _waits(batch: Batch) -> bool:
    search, index = batch
    return search.waits(index)

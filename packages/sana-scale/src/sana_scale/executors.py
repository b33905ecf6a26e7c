"""Where a run's batches are drawn and judged."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from sana_scale.search import Search
from sana_scale.streaming import streamed
from sana_scale.units import Judged

Image = TypeVar("Image")


@runtime_checkable
class Executor(Protocol):
    """Makes the pending units of a search somewhere. The result of a run does not depend on which executor made it."""

    @property
    def brings_its_own(self) -> bool:
        """Whether it makes sampler and judge itself and works through a run directory; best_of_n gets None for both."""

    def judged(self, search: Search[Image]) -> Generator[Judged[Image], None, None]:
        """Yield the pending units in their order, judged; closed early when the run stops."""


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

    def judged(self, search: Search[Image]) -> Generator[Judged[Image], None, None]:
        """Yield the pending units in their order, judged."""
        return streamed(search.pending, search.draw, search.judge, waits=search.waits, overlap=self.overlap)

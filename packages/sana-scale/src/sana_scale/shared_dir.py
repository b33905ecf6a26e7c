"""Workers that share a run directory and nothing else: processes here, and whoever joins from other machines."""

import pickle
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sana_scale.leases import Leases
from sana_scale.protocols import Judge, Sampler
from sana_scale.request import Request
from sana_scale.run_claim import read_description
from sana_scale.search import Search
from sana_scale.streaming import streamed
from sana_scale.units import Judged
from sana_scale.worker_processes import WorkerProcesses

Image = TypeVar("Image")
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class SharedDir:
    """An executor whose workers meet in the run directory.

    Attributes:
        make_sampler, make_judge: called in every worker process. They are sent there by pickle, so they have to be
            functions or classes of a module; a script needs `if __name__ == "__main__"` around its own work.
        workers: how many processes to start on this machine; a killed one is started again. More may join from
            anywhere with `work_on`.
        devices: CUDA_VISIBLE_DEVICES of each process, in turn; empty leaves it as it is.
        lease_seconds: how long after a worker's death another one takes over its batches.
    """

    make_sampler: Callable[[], Sampler[Any]]
    make_judge: Callable[[], Judge[Any]]
    workers: int = 1
    devices: tuple[str, ...] = ()
    lease_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.workers < 0 or not self.lease_seconds > 0:
            raise ValueError(f"workers={self.workers} must be at least 0, lease_seconds={self.lease_seconds} above 0")
        try:
            pickle.dumps((self.make_sampler, self.make_judge))
        except Exception as error:
            raise TypeError(
                f"{self.make_sampler!r} and {self.make_judge!r} cannot be sent to another process: "
                "they have to be functions or classes of a module"
            ) from error

    @property
    def brings_its_own(self) -> bool:
        """True: its workers make their own sampler and judge, and need a run directory."""
        return True

    def judged(self, search: Search[Image]) -> Generator[Judged[Image], None, None]:
        """Yield the pending units in their order as workers finish them."""
        from sana_scale.run_directory import RunDirectory  # needs Pillow

        assert isinstance(search.store, RunDirectory)
        arguments = (search.store.path, self.make_sampler, self.make_judge, self.lease_seconds)
        with WorkerProcesses(_work, arguments, count=self.workers, devices=self.devices) as processes:
            for index in search.pending:
                while (unit := search.store.recorded(index)) is None:
                    processes.mend()
                    time.sleep(POLL_SECONDS)
                processes.forgive()
                yield Judged(unit=unit)


def work_on(
    run_dir: str | Path,
    make_sampler: Callable[[], Sampler[Any]],
    make_judge: Callable[[], Judge[Any]],
    *,
    lease_seconds: float = 60.0,
) -> None:
    """Join a run, from any machine that sees its directory, and leave when there is nothing left to do.

    It returns when the run is finished, or when every batch is done; the driver is the `best_of_n` that started it
    with a `SharedDir`. All workers of a run should have the same `lease_seconds`.

    Raises:
        FileNotFoundError: there is no run in `run_dir` yet.
        Exception: what the sampler or the judge raised; the batch is free for other workers.
    """
    _work(Path(run_dir), make_sampler, make_judge, lease_seconds, lambda: True)


def _work(
    path: Path,
    make_sampler: Callable[[], Sampler[Any]],
    make_judge: Callable[[], Judge[Any]],
    lease_seconds: float,
    wanted: Callable[[], bool],
) -> None:
    from sana_scale.run_directory import RunDirectory  # needs Pillow

    description = read_description(path)
    request = Request.from_description(description)
    store = RunDirectory(path, request, description)
    search: Search[Any] = Search(request, store, make_sampler(), make_judge())
    leases = Leases(path / "leases", seconds=lease_seconds)
    with leases.kept_alive():
        while wanted() and store.outcome() is None:
            # Where all that is left is leased to others this is empty, and what was judged is stored before the nap.
            for judged in streamed(_free_units(search, leases, wanted), search.draw, search.judge):
                if not _stored(search, judged):
                    return
                leases.release(judged.unit.index)
            search.resume()
            if search.tally.full:
                return
            time.sleep(POLL_SECONDS)


def _stored(search: Search[Any], judged: Judged[Any]) -> bool:
    """Store a unit, unless the run was finished without it and its directory cleared up meanwhile."""
    try:
        search.put(judged)
    except FileNotFoundError:
        if search.store.outcome() is None:
            raise
        return False
    return True


def _free_units(search: Search[Any], leases: Leases, wanted: Callable[[], bool]) -> Iterator[int]:
    """Units that nobody works on, leased, from the front, as long as there are any and the run goes on."""
    while wanted() and search.store.outcome() is None:
        search.resume()
        free = (index for index in search.pending if not search.waits(index) and search.store.recorded(index) is None)
        taken = next((index for index in free if leases.take(index)), None)
        if taken is None:
            return
        yield taken

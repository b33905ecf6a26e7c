"""Workers that share a run directory and nothing else: processes here, and whoever joins from other machines."""

import math
import pickle
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_scale.executors import Batch, Make
from sana_scale.leases import Leases
from sana_scale.protocols import Judge, Sampler
from sana_scale.run_claim import check_present
from sana_scale.search import Search
from sana_scale.streaming import streamed
from sana_scale.units import Drawn, Judged, Unit
from sana_scale.whole_numbers import whole_number
from sana_scale.worker_processes import WorkerProcesses

if TYPE_CHECKING:
    from sana_scale.shared_run import SharedRun

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
        object.__setattr__(self, "workers", whole_number("workers", self.workers, least=0))
        if not 0 < self.lease_seconds < math.inf:
            raise ValueError(f"lease_seconds is {self.lease_seconds}; it must be above 0 and finite")
        if isinstance(self.devices, str):
            raise TypeError(
                f"devices is {self.devices!r}; it must be a tuple with one value of CUDA_VISIBLE_DEVICES per process"
            )
        check_picklable(self.make_sampler, self.make_judge)

    @property
    def brings_its_own(self) -> bool:
        """True: its workers make their own sampler and judge, and need a run directory."""
        return True

    @contextmanager
    def working(self, searches: Sequence[Search[Any]], run_dir: Path | None) -> Iterator[Make]:
        """Within this context the workers are up."""
        from sana_scale.run_directory import LEASES, remove_traces  # needs Pillow
        from sana_scale.shared_run import write_wanted

        assert run_dir is not None
        (run_dir / LEASES).mkdir(exist_ok=True)
        places = {id(search): place for place, search in enumerate(searches)}
        arguments = (run_dir, self.make_sampler, self.make_judge, self.lease_seconds)
        with WorkerProcesses(_work, arguments, count=self.workers, devices=self.devices) as processes:

            def make(batches: Iterable[Batch]) -> Generator[tuple[Search[Any], Judged[Any]], None, None]:
                wanted = list(batches)
                write_wanted(run_dir, ((places[id(search)], index) for search, index in wanted))
                for search, index in wanted:
                    unit = _awaited(search, index, run_dir, processes)
                    processes.forgive()
                    yield search, Judged(unit=unit)

            yield make
        remove_traces(run_dir)


def _awaited(search: Search[Any], index: int, run_dir: Path, processes: WorkerProcesses) -> Unit:
    """The record of a unit, as soon as a worker has written it."""
    while True:
        all_left = processes.all_left  # asked before the look: the last worker records its unit and leaves
        if unit := search.store.recorded(index):
            return unit
        if all_left:
            raise RuntimeError(
                f"every worker ended with exit code 0 and left batches undone, the first is batch {index} of "
                f"{search.request.prompt!r}: "
                "a sampler or a judge must raise an exception where it fails, and not call sys.exit()"
            )
        check_present(run_dir)
        processes.mend()
        time.sleep(POLL_SECONDS)


def check_picklable(make_sampler: object, make_judge: object) -> None:
    """Raise TypeError where the factories cannot be sent to another process."""
    try:
        pickle.dumps((make_sampler, make_judge))
    except Exception as error:
        raise TypeError(
            f"{make_sampler!r} and {make_judge!r} cannot be sent to another process: "
            "they have to be functions or classes of a module"
        ) from error


def work_on(
    run_dir: str | Path,
    make_sampler: Callable[[], Sampler[Any]],
    make_judge: Callable[[], Judge[Any]],
    *,
    lease_seconds: float = 60.0,
) -> None:
    """Join a run, from any machine that sees its directory, and leave when there is nothing left to do.

    It returns when the run is finished, or when every batch is done; the driver is the `best_of_n` or `best_of_n_many`
    that started it with a `SharedDir`, and a worker without one waits for the next. All workers of a run should have
    the same `lease_seconds`.

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
    from sana_scale.run_directory import LEASES  # needs Pillow
    from sana_scale.shared_run import SharedRun

    sample, judge = make_sampler(), make_judge()
    run = SharedRun.opened(path, sample, judge)
    leases = Leases(path / LEASES, seconds=lease_seconds)
    with leases.kept_alive():
        while wanted() and not run.over:
            # Where all that is left is leased to others this is empty, and what was judged is stored before the nap.
            for (search, _, number), judged in streamed(_free_units(run, leases, wanted), _draw, _judge):
                if not _stored(search, judged, path):
                    return
                leases.release(number)
            if run.complete:
                if not run.grown:
                    return
                run = SharedRun.opened(path, sample, judge)
            check_present(path)
            time.sleep(POLL_SECONDS)


_Leased = tuple[Search[Any], int, int]


def _free_units(run: "SharedRun", leases: Leases, wanted: Callable[[], bool]) -> Iterator[_Leased]:
    """Units that nobody works on, leased, from the front, as long as there are any and the run goes on."""
    while wanted() and not run.over:
        taken = next((unit for unit in run.free() if leases.take(unit[2])), None)
        if taken is None:
            return
        yield taken


def _draw(unit: _Leased) -> tuple[_Leased, Drawn[Any] | Judged[Any]]:
    search, index, _ = unit
    return unit, search.draw(index)


def _judge(drawn: tuple[_Leased, Drawn[Any] | Judged[Any]]) -> tuple[_Leased, Judged[Any]]:
    unit, images = drawn
    return unit, unit[0].judge(images)


def _stored(search: Search[Any], judged: Judged[Any], path: Path) -> bool:
    """Store a unit, unless the run was finished without it and its directory cleared up meanwhile."""
    try:
        search.put(judged)
    except FileNotFoundError:
        if search.store.outcome() is not None:
            return False
        check_present(path)
        search.put(judged)  # finished, cleared up, and already reopened with a larger n
    return True

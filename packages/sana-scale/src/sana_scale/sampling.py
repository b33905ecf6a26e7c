"""Draw many images of a prompt and keep the best: repeated sampling with a judge (SANA-1.5, inference-time scaling)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sana_scale.executors import Executor, Local, check_makers
from sana_scale.halving import Halving
from sana_scale.memory_store import Memory
from sana_scale.protocols import Judge, Sampler
from sana_scale.request import Request
from sana_scale.result import BestOfN, Progress
from sana_scale.search import Search, Store
from sana_scale.stopping import StopRule

Image = TypeVar("Image")
OnProgress = Callable[[Progress], object]


def best_of_n(
    sample: Sampler[Image] | None,
    judge: Judge[Image] | None,
    prompt: str,
    *,
    n: int,
    keep: int = 1,
    seed: int = 0,
    batch_size: int = 8,
    run_dir: str | Path | None = None,
    stop: StopRule | Sequence[StopRule] | None = None,
    prune: Halving | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> BestOfN[Image]:
    """Draw the images of the seeds `seed` to `seed + n - 1` and keep the `keep` that the judge scores highest.

    While a batch is judged the next one is drawn. Only the best images stay in memory.

    Args:
        sample: draws one image per seed; see `Sampler`.
        judge: scores images, higher is better; see `Judge`.
        prompt: what to draw.
        n: how many images to draw at most.
        keep: how many to keep.
        seed: the first seed.
        batch_size: how many images to ask the sampler for at once.
        run_dir: keep scores and the best images here (PIL images, as PNG), and go on from what is there: after a kill
            at any instant the same call loses at most the two batches that were in flight. A finished run returns at
            once; with a larger `n` it goes on, if `n` was a multiple of `batch_size`. The directory knows what was
            asked for, but not by whom images are drawn and judged.
        stop: a rule, or several of which the first to hold ends the run, though never before `keep` images. Rules see
            scores in the order of seeds; images of later seeds that are there already are left out of the result.
        prune: give up on images that look bad half-way; the sampler needs the method of `PreviewingSampler`.
        executor: where to work, `Local()` by default. `SharedDir` and `Ray` make their own sampler and judge: pass None
            for both.
        on_progress: called with `Progress` after each batch.

    Raises:
        ValueError: numbers that make no sense together; a run directory of another configuration; a sampler or a judge
            that does not give one image or one finite score each. A judge that fails is asked for that batch once
            more, with nothing else going on; its second error is raised.
        RuntimeError: another process drives `run_dir` (`RunInUseError`), or workers are killed time and again
            (`WorkersKilledError`).
        OSError: the run directory cannot be written, for example because the disk is full; it stays consistent, and the
            same call resumes.
    """
    executor = executor or Local()
    check_makers(executor, sample, judge, run_dir)
    request = Request(prompt=prompt, n=n, keep=keep, seed=seed, batch_size=batch_size, stop=as_rules(stop), prune=prune)
    with opened(run_dir, request) as store:
        search = Search[Any](request, store, sample, judge)
        if store.outcome() is None:
            _run(search, executor, None if run_dir is None else Path(run_dir), on_progress)
        return search.result()


def _run(search: Search[Image], executor: Executor, run_dir: Path | None, on_progress: OnProgress | None) -> None:
    """Take in units until the search is full."""
    search.resume()
    if on_progress and search.tally.units:
        on_progress(search.progress())
    if search.tally.full:
        return
    wanted = ((search, index) for index in search.pending)
    with executor.working([search], run_dir) as make, closing(make(wanted)) as units:
        for _, judged in units:
            search.take_in(judged)
            if on_progress:
                on_progress(search.progress())
            if search.tally.full:
                return
            del judged  # its images, before another batch is drawn


def as_rules(stop: StopRule | Sequence[StopRule] | None) -> tuple[StopRule, ...]:
    """No rule, one or several, as several."""
    if stop is None:
        return ()
    return tuple(stop) if isinstance(stop, Sequence) else (stop,)


@contextmanager
def opened(run_dir: str | Path | None, request: Request) -> Iterator[Store[Any]]:
    """Where the run is kept, held by this process alone."""
    if run_dir is None:
        yield Memory()
        return
    from sana_scale.run_directory import RunDirectory  # needs Pillow

    with RunDirectory(run_dir, request).driven() as directory:
        yield directory

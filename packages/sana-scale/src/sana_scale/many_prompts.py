"""One budget for many prompts: what easy prompts do not need goes to the hard ones."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any, TypeVar

from sana_scale.executors import Batch, Executor, Local, Make, check_makers
from sana_scale.halving import Halving, race
from sana_scale.memory_store import Memory
from sana_scale.protocols import Judge, Sampler
from sana_scale.request import Request
from sana_scale.result import BestOfN
from sana_scale.run_claim import claimed
from sana_scale.sampling import OnProgress, as_rules
from sana_scale.search import Search, Store
from sana_scale.stopping import StopRule
from sana_scale.whole_numbers import whole_number

Image = TypeVar("Image")
Searches = list[Search[Image]]


def best_of_n_many(
    sample: Sampler[Image] | None,
    judge: Judge[Image] | None,
    prompts: Sequence[str],
    *,
    n: int,
    budget: int | None = None,
    keep: int = 1,
    seed: int = 0,
    batch_size: int = 8,
    run_dir: str | Path | None = None,
    stop: StopRule | Sequence[StopRule] | None = None,
    prune: Halving | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> list[BestOfN[Image]]:
    """`best_of_n` of each prompt, at most `n` images each and at most the cost of `budget` images together.

    It goes in rounds: every prompt that is not stopped yet gets one batch, the one with the lowest best score first.
    A prompt that `stop` ends leaves its share to the others; the run ends when no whole batch is left in the budget.
    Who gets what depends on scores of earlier rounds alone, so a run that was killed goes on as if it had not been, and
    executors do not change it: within a round each prompt's batch can be made by another worker.

    The arguments are those of `best_of_n`, and `budget`, by default `n` for every prompt. `on_progress` is called with
    the `Progress` of the prompt whose batch was judged. Returns a result per prompt, in their order.

    `budget` counts what is spent: an image given up on at a quarter of its steps is a quarter of one.

    Raises:
        ValueError: no prompts, or a budget that may not give every prompt `keep` images; else as `best_of_n`.
    """
    executor = executor or Local()
    check_makers(executor, sample, judge, run_dir)
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts is {prompts!r}; it must be a list with at least one prompt")
    first = Request(
        prompt=prompts[0], n=n, keep=keep, seed=seed, batch_size=batch_size, stop=as_rules(stop), prune=prune
    )
    requests = [replace(first, prompt=prompt) for prompt in prompts]
    budget = first.n * len(prompts) if budget is None else whole_number("budget", budget, least=1)
    check_budget(budget, first, len(prompts))
    with _opened(run_dir, requests, budget) as stores:
        searches = [Search[Image](*pair, sample, judge) for pair in zip(requests, stores, strict=True)]
        if any(store.outcome() is None for store in stores):
            with executor.working(searches, None if run_dir is None else Path(run_dir)) as make:
                _run(searches, make, budget, on_progress)
        for search in searches:
            search.tally.end(f"the budget of {budget} images for all prompts")
        return [search.result() for search in searches]


def _run(searches: Searches[Image], make: Make, budget: int, on_progress: OnProgress | None) -> None:
    """Round after round, until every search is full or the budget spent."""
    spent = 0.0
    while batches := next_round(searches, budget - spent):
        spent += sum(search.cost(index) for search, index in batches)
        with closing(make(batches)) as units:
            for search, judged in units:
                search.take_in(judged)
                if on_progress:
                    on_progress(search.progress())


def next_round(searches: Searches[Image], left: float) -> list[Batch]:
    """The next batch of every search that is not full, hardest first, as far as the budget goes.

    While some have fewer images than are to be kept, as pruning may leave them, it is their turn alone.
    """
    active = [search for search in searches if not search.tally.full]
    active = [search for search in active if len(search.tally.scores) < search.request.keep] or active
    if active and active[0].tally.units:
        active.sort(key=lambda search: search.tally.podium.best[1])
    chosen = []
    for search in active:
        index = len(search.tally.units)
        left -= search.cost(index)
        if left < -1e-9:  # costs are sums of fractions
            break
        chosen.append((search, index))
    return chosen


def check_budget(budget: int, request: Request, prompts: int) -> None:
    """Raise where a budget may not give each prompt the images that are to be kept, whatever pruning leaves."""
    at = request.prune.at if request.prune else ()
    schedules = chain.from_iterable(combinations(at, looks) for looks in range(len(at) + 1))
    least = max(_cost_of_keep(request, schedule) for schedule in schedules) * prompts
    if budget < least - 1e-9:
        raise ValueError(
            f"budget is {budget}; it may not give each of {prompts} prompts keep={request.keep} images in batches of "
            f"{request.batch_size}: that takes {least:g}"
        )


def _cost_of_keep(request: Request, at: Sequence[float]) -> float:
    """What a prompt takes until `keep` of its images are finished, where the pilot leaves the looks `at`."""
    finished, cost, index = 0, 0.0, 0
    while finished < request.keep:
        looks = at if request.prune and index >= request.pilot_units else ()
        images, price = race(len(request.seeds(index)), looks, request.prune.keep if request.prune else 1.0)
        finished, cost, index = finished + images, cost + price, index + 1
    return cost


@contextmanager
def _opened(run_dir: str | Path | None, requests: list[Request], budget: int) -> Iterator[list[Store[Any]]]:
    """A store per prompt: below `run_dir` the run directories 00000, 00001, ..., all held by its one lock."""
    if run_dir is None:
        yield [Memory() for _ in requests]
        return
    from sana_scale.run_directory import RunDirectory  # needs Pillow
    from sana_scale.shared_run import many_folders

    shared = requests[0].described() | {"prompt": None}
    description = shared | {"prompts": [request.prompt for request in requests], "budget": budget}
    with claimed(Path(run_dir), description):
        folders = many_folders(Path(run_dir), len(requests))
        stores = [RunDirectory(*pair) for pair in zip(folders, requests, strict=True)]
        for store in stores:
            store.prepare()
        yield [*stores]

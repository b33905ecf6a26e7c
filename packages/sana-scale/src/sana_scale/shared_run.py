"""A run as its workers see it: what the driver wants made now, in a file beside the records."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from sana_scale.files import read_text, write_json
from sana_scale.protocols import Judge, Sampler
from sana_scale.request import Request
from sana_scale.run_claim import read_description
from sana_scale.run_directory import WANTED, RunDirectory
from sana_scale.search import Search


class SharedRun:
    """The searches of a run directory, of one prompt or of many, with a worker's own sampler and judge."""

    def __init__(self, path: Path, searches: list[Search[Any]]) -> None:
        self.path = path
        self.searches = searches

    @classmethod
    def opened(cls, path: Path, sample: Sampler[Any], judge: Judge[Any]) -> Self:
        """The run in `path`.

        Raises:
            FileNotFoundError: there is none.
        """
        description = read_description(path)
        prompts = description.pop("prompts", None)
        description.pop("budget", None)
        folders = [path] if prompts is None else many_folders(path, len(prompts))
        described = [description] if prompts is None else [description | {"prompt": prompt} for prompt in prompts]
        stores = (
            RunDirectory(folder, Request.from_description(one), one)
            for folder, one in zip(folders, described, strict=True)
        )
        return cls(path, [Search(store.request, store, sample, judge) for store in stores])

    @property
    def over(self) -> bool:
        """Whether the run is finished; the last prompt's result is written last."""
        return self.searches[-1].store.outcome() is not None

    @property
    def complete(self) -> bool:
        """Whether every unit there may be is there, as far as `free` has looked."""
        return all(search.tally.full for search in self.searches)

    @property
    def grown(self) -> bool:
        """Whether a driver has asked for a larger n since: this worker joined while the run was being reopened."""
        try:
            return bool(read_description(self.path)["n"] > self.searches[0].request.n)
        except FileNotFoundError:
            return False

    def free(self) -> Iterator[tuple[Search[Any], int, int]]:
        """What the driver wants and nobody has finished: search, index, and the number of its lease."""
        for place, index in read_wanted(self.path):
            search = self.searches[place]
            if index < len(search.tally.units):
                continue
            search.resume()
            if index in search.pending and not search.waits(index) and search.store.recorded(index) is None:
                yield search, index, place * search.request.units + index


def many_folders(path: Path, prompts: int) -> list[Path]:
    """The run directory of each of many prompts."""
    return [path / f"{place:05d}" for place in range(prompts)]


def write_wanted(path: Path, units: Iterable[tuple[int, int]]) -> None:
    """Tell workers which units to make, in this order: (place of the search, index)."""
    write_json(path / WANTED, list(units))


def read_wanted(path: Path) -> list[tuple[int, int]]:
    """What the driver wants at the moment; nothing before it has said so."""
    try:
        units = json.loads(read_text(path / WANTED))
    except FileNotFoundError:
        return []
    return [(place, index) for place, index in units]

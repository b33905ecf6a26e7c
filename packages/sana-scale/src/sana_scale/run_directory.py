"""A run on disk: it grows by one whole batch at a time and can be read after a kill at any instant.

run.json               what was asked for, and its hash
units/000012/          one judged batch, renamed into place whole: unit.json and those of its images that may still win
result.json            the outcome, once there is one
best-01-seed-17.png    the kept images
lock                   held by the driver while it runs
wanted.json, leases/   what workers are to do, and what they are at
"""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_scale.files import read_text, sync_names, write_bytes, write_json
from sana_scale.png import check_png, read_png, write_png
from sana_scale.request import Request
from sana_scale.run_claim import RUN, claimed, fingerprint
from sana_scale.units import Unit

if TYPE_CHECKING:
    from PIL.Image import Image


WANTED = "wanted.json"
LEASES = "leases"

# A disk that is full, a quota that is spent, a file larger than the system lets this process write.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RunDirectory:
    """The records and images of one run. Any number may read and add units; one driver holds the lock."""

    def __init__(self, path: str | Path, request: Request, description: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.request = request
        self.description = request.described() if description is None else description
        self._units = self.path / "units"
        self._hash = fingerprint(self.description)

    @contextmanager
    def driven(self) -> Iterator["RunDirectory"]:
        """Hold the directory as its only driver; see `claimed`."""
        with claimed(self.path, self.description, reopen=self._reopen):
            self.prepare()
            yield self

    def prepare(self) -> None:
        """Make the folder of its units. Only a driver does: a late worker must not bring back what was deleted."""
        self._units.mkdir(parents=True, exist_ok=True)

    def recorded(self, index: int) -> Unit | None:
        """The record of a unit, None while there is none."""
        path = self._folder(index) / "unit.json"
        try:
            record = json.loads(read_text(path))
            unit, run = Unit.from_json(record), record["run"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): remove that unit's folder, it is made again") from error
        if run != self._hash:
            raise ValueError(f"{path} belongs to another run than {self.path / RUN}: remove that unit's folder")
        return unit

    def put(self, unit: Unit, images: Mapping[int, object]) -> None:
        """Add a unit with those of its images that may still win; where it is there already, that one stays.

        Raises:
            OSError: the disk is full, or the like; nothing of the unit is left behind.
        """
        checked = {seed: check_png(image) for seed, image in images.items()}
        staging = self._units / f".{unit.index:06d}-{uuid.uuid4().hex}"
        try:
            staging.mkdir()
            for seed, image in checked.items():
                write_png(staging / f"seed-{seed}.png", image)
            write_json(staging / "unit.json", {"run": self._hash, **unit.to_json()})
            self._publish(staging, unit.index)
        except OSError as error:
            if error.errno in NO_ROOM:
                error.add_note(
                    f"{self.path} is whole, without this batch: make room, and the same call goes on from there"
                )
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def retain(self, seeds: Sequence[int]) -> None:
        """Nothing: images leave the disk when the run is finished."""

    def outcome(self) -> dict[str, Any] | None:
        """The result of a finished run, None before."""
        try:
            outcome: dict[str, Any] = json.loads(read_text(self.path / "result.json"))
        except FileNotFoundError:
            return None
        return outcome

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Copy the kept images to the top folder, then write the result."""
        ranked = [dict(candidate) for candidate in outcome["candidates"]]
        for rank, candidate in enumerate(ranked[: self.request.keep], start=1):
            seed = candidate["seed"]
            candidate["image"] = f"best-{rank:02d}-seed-{seed}.png"
            write_bytes(self.path / candidate["image"], self._stored(seed).read_bytes())
        write_json(self.path / "result.json", {**outcome, "candidates": ranked})

    def kept(self) -> "dict[int, Image]":
        """The kept images of a finished run by their seeds."""
        return {candidate["seed"]: read_png(self.path / candidate["image"]) for candidate in self._winners()}

    def sweep(self) -> None:
        """Remove images that lost and what killed writers left; a worker that is late finds its staging folder gone."""
        kept = {candidate["image"] for candidate in self._winners()}
        half_written = (self.path.glob(f".{name}.*") for name in (RUN, "result.json", "best-*.png"))
        losers = (file for file in self.path.glob("best-*.png") if file.name not in kept)
        for file in chain(self._units.glob("[0-9]*/*seed-*.png*"), losers, *half_written):
            file.unlink(missing_ok=True)
        for staging in self._units.glob(".*"):
            shutil.rmtree(staging, ignore_errors=True)
        remove_traces(self.path)

    def _winners(self) -> list[dict[str, Any]]:
        outcome = self.outcome()
        assert outcome is not None
        winners: list[dict[str, Any]] = outcome["candidates"][: self.request.keep]
        return winners

    def _folder(self, index: int) -> Path:
        return self._units / f"{index:06d}"

    def _stored(self, seed: int) -> Path:
        return self._folder((seed - self.request.seed) // self.request.batch_size) / f"seed-{seed}.png"

    def _reopen(self) -> None:
        """Make a finished run go on: those that it kept may win again, and no others that it has seen."""
        if outcome := self.outcome():
            for candidate in outcome["candidates"][: self.request.keep]:
                write_bytes(self._stored(candidate["seed"]), (self.path / candidate["image"]).read_bytes())
            remove_traces(self.path)  # what is wanted from now on is said when run.json has the new n
            (self.path / "result.json").unlink()
            sync_names(self.path)

    def _publish(self, staging: Path, index: int) -> None:
        try:
            os.rename(staging, self._folder(index))
        except OSError:
            # A folder with files in it cannot be replaced: another worker was first, and its unit is as good.
            if not self._folder(index).exists():
                raise
        sync_names(self._units)


def remove_traces(path: Path) -> None:
    """Remove what only workers needed; one that is late makes do without."""
    for file in (path / WANTED, *path.glob(f".{WANTED}.*")):
        file.unlink(missing_ok=True)
    # Renamed first: a worker that takes a lease right now finds no folder, and leaves nothing in it.
    with suppress(FileNotFoundError):
        os.rename(path / LEASES, path / f".{LEASES}.{uuid.uuid4().hex}")
    for folder in path.glob(f".{LEASES}.*"):
        shutil.rmtree(folder, ignore_errors=True)

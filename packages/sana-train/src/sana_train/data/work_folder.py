"""Work that several processes share and any of them may be killed at: units, each done once and kept."""

import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sana_train.folders import replace_file

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
POLL = 0.5  # seconds between looks at what other processes hold


class WorkFolder:
    """Units of work with names, done in any order by any number of processes on one file system.

    A process holds a unit by a lock that the kernel takes back when the process dies, so nothing has to expire: a
    killed process's unit is taken up by the others or after a restart. A unit is done when its facts are on the disk.

    Args:
        folder: made if need be; one per job.
        settings: what decides the result, as JSON; a folder that was started otherwise is refused.
        renewed: those of them that may differ from then, and replace what was noted.

    Raises:
        ValueError: the folder was started with other settings; names those that differ.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, renewed: Collection[str] = ()) -> None:
        self.folder = folder
        for part in (folder / "units", folder / "leases"):
            part.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(settings))
        with _lease(folder / "leases" / "settings", wait=True):
            path = folder / SETTINGS
            if not path.exists():
                _write_json(path, wanted)
            then = json.loads(path.read_text(encoding="utf-8"))
            names = [name for name in {**then, **wanted} if then.get(name) != wanted.get(name)]
            changes = [f"{name} {then.get(name)} -> {wanted.get(name)}" for name in names if name not in renewed]
            if changes:
                raise ValueError(
                    f"{folder} was started otherwise ({'; '.join(changes)}): use the same settings, or give another "
                    "folder"
                )
            if names:
                _write_json(path, wanted)

    def done(self) -> list[str]:
        """The units that are done, of whatever plan."""
        return sorted(path.stem for path in (self.folder / "units").glob("*.json") if not path.name.startswith("."))

    def facts(self, unit: str) -> dict[str, Any] | None:
        """What `finish` was given for a unit, None while it is not done."""
        try:
            facts: dict[str, Any] = json.loads((self.folder / "units" / f"{unit}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return facts

    def pending(self, units: Sequence[str]) -> Iterator[str]:
        """Yield each unit that is not done and that nobody else does, and return when all of them are done.

        Between this unit and the next, the caller does the work and calls `finish`; a unit that is not finished so is
        left to others.
        """
        left = [unit for unit in units if self.facts(unit) is None]
        while left:
            elsewhere = []
            for unit in left:
                with _lease(self.folder / "leases" / unit) as mine:
                    if not mine:
                        elsewhere.append(unit)
                    elif self.facts(unit) is None:
                        yield unit
            left = [unit for unit in elsewhere if self.facts(unit) is None]
            if left:
                time.sleep(POLL)

    def finish(self, unit: str, facts: Mapping[str, Any]) -> None:
        """Note that a unit is done, after everything that belongs to it is on the disk."""
        _write_json(self.folder / "units" / f"{unit}.json", facts)

    def forget(self, unit: str) -> None:
        """Have a unit done again, since its result is lost."""
        (self.folder / "units" / f"{unit}.json").unlink(missing_ok=True)


@contextmanager
def _lease(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock for as long as the context lasts, or yield False where another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows: one process at a time, then
        yield True
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    mine = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        mine = False
    except OSError as error:
        logger.warning("%s cannot be locked (%s): let one process work here, or divide it with --part", path, error)
    try:
        yield mine
    finally:
        os.close(descriptor)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file that whoever has the lease writes."""
    replace_file(path, json.dumps(values, ensure_ascii=False, indent=1).encode(), alone=True)

"""Checkpoints of a run: written aside, hashed, committed, renamed; read only if every byte is as it was written.

checkpoints/step-00000010/   __0_0.distcp ... and .metadata   torch.distributed.checkpoint: the tensors
                             facts.json                       what is not a tensor
                             manifest.json, COMMIT            sizes and hashes, and the marker written last
"""

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.storage import WriteResult

from sana_train.checkpointing import manifest
from sana_train.checkpointing.tensor_files import Snapshot, read_tensors
from sana_train.checkpointing.tensor_index import INDEX, differences, read_index
from sana_train.folders import sync, write_synced
from sana_train.peers import PeerError, Peers

logger = logging.getLogger(__name__)

_FACTS = "facts.json"
_Share = tuple[list[WriteResult], dict[str, manifest.Entry]]


class CheckpointError(RuntimeError):
    """A run cannot be saved, or not resumed from what is on disk; the message says what was found and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A checkpoint that is on the disk as it was written."""

    step: int
    path: Path
    facts: dict[str, Any]


class Checkpoints:
    """The checkpoints in `folder`, which all nodes share.

    Where several processes train together each of them makes a `Checkpoints` and calls the same methods.

    Args:
        folder: made with the first checkpoint.
        keep: how many checkpoints to leave there, the newest ones.
        background: `save` returns once the state is copied to CPU memory, and a thread writes the copy.
    """

    def __init__(self, folder: Path, *, keep: int, background: bool = False) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; it must be at least 1")
        self.folder = folder
        self.keep = keep
        self._peers = Peers()
        self._thread = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._pending: Future[None] | None = None

    def save(self, step: int, state: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Write the checkpoint of `step`, then remove all but the newest `keep`.

        Args:
            step: names the checkpoint; one of the same step is replaced, and later ones are removed.
            state: tensors, the same in all processes, and DTensors, of which each process writes its part.
            facts: the rest, as JSON.

        Raises:
            CheckpointError: it could not be written, or the one before it in the background; the others are intact.
        """
        self.wait()
        staging, text = self._path(step, ".tmp"), json.dumps(facts, indent=1)
        with self._cleaned_up(staging):
            self._peers.first(partial(self._start, staging))
            snapshot = Snapshot(state, staging, self._peers)
            if self._thread:
                self._peers.everywhere(snapshot.keep)
        write = partial(self._write, step, snapshot, text)
        if self._thread:
            self._pending = self._thread.submit(write)
        else:
            write()

    def wait(self) -> None:
        """Return when the background save is committed.

        Raises:
            CheckpointError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def newest(self) -> Saved | None:
        """The newest checkpoint that is whole, or None if there is none at all; those that are skipped are logged.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        self.wait()
        saved, damaged = self._peers.first(self._look)
        if saved is None and damaged:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is whole ({'; '.join(damaged)}): put back a copy, or start a new run"
            )
        return saved

    def newer_than(self, step: int | None) -> Saved | None:
        """The newest whole checkpoint if it is of a later step than this, or of any where `step` is None.

        Raises:
            CheckpointError: as `newest`.
        """
        self.wait()
        if not self._peers.first(lambda: any(step is None or _step(path) > step for path in self._places())):
            return None  # without reading gigabytes to hash them
        newest = self.newest()
        return newest if newest and (step is None or newest.step > step) else None

    def load(self, saved: Saved, state: Mapping[str, Tensor]) -> None:
        """Read a checkpoint into the tensors and DTensors of `state`, sharded as they are now.

        Raises:
            CheckpointError: the checkpoint has other names, shapes or dtypes, and nothing is changed; or a read failed.
        """
        self.wait()
        try:
            found = self._peers.agree(lambda: differences(read_index(saved.path), state), _all_or_none)
            if not found:
                self._peers.everywhere(partial(read_tensors, saved.path, state))
        except PeerError as error:
            raise CheckpointError(f"{saved.path} cannot be read ({error}): resume from the one before it") from error
        if found:
            raise CheckpointError(f"{saved.path} is of another run ({'; '.join(found)}): resume what it was saved from")

    def _write(self, step: int, snapshot: Snapshot, facts: str) -> None:
        with self._cleaned_up(self._path(step, ".tmp")):
            self._peers.agree(partial(_write_share, snapshot), partial(self._commit, step, snapshot, facts))

    @contextmanager
    def _cleaned_up(self, staging: Path) -> Iterator[None]:
        try:
            yield
        except PeerError as error:
            if self._peers.rank == 0:
                shutil.rmtree(staging, ignore_errors=True)
            raise CheckpointError(
                f"{staging.stem} was not saved ({error}); the checkpoints before it are intact: "
                f"make room for one more in {self.folder} if its disk is full, then resume the run"
            ) from error

    def _start(self, staging: Path) -> None:
        for leftover in self._all(".tmp"):
            shutil.rmtree(leftover)
        staging.mkdir(parents=True)

    def _commit(self, step: int, snapshot: Snapshot, facts: str, shares: list[_Share]) -> list[None]:
        """Make what all processes have written a checkpoint; in the first process."""
        staging, path = self._path(step, ".tmp"), self._path(step)
        snapshot.write_index([results for results, _ in shares])
        write_synced(staging / _FACTS, facts.encode())
        files = manifest.entries(staging / name for name in (_FACTS, INDEX))
        for _, written in shares:
            files |= written
        manifest.commit(staging, files)
        if path.exists():  # damaged, or saved twice; until the new one is in its place it is better than nothing
            shutil.rmtree(self._path(step, ".old"), ignore_errors=True)
            path.rename(self._path(step, ".old"))
        staging.rename(path)
        sync(self.folder)
        self._prune(step)
        return [None for _ in shares]

    def _prune(self, step: int) -> None:
        until_now = sorted((path for path in self._all() if _step(path) <= step), key=_step)
        for path in sorted({*self._places()} - {*until_now[-self.keep :]}):
            try:
                shutil.rmtree(path)
            except OSError as error:
                logger.warning("%s is no longer needed, but cannot be removed: %s", path, error)

    def _look(self) -> tuple[Saved | None, list[str]]:
        """The newest whole checkpoint, and what is wrong with those after it; in the first process."""
        passed_over: list[str] = []
        for path in sorted(self._places(), key=lambda path: (_step(path), not path.suffix), reverse=True):
            damage = _damage(path)
            if damage is None:
                return Saved(step=_step(path), path=path, facts=json.loads((path / _FACTS).read_text())), passed_over
            logger.warning("%s is skipped: %s", path, damage)
            passed_over.append(f"{path.name}: {damage}")
        return None, passed_over

    def _path(self, step: int, suffix: str = "") -> Path:
        return self.folder / f"step-{step:08d}{suffix}"

    def _places(self) -> list[Path]:
        """Where checkpoints are, those included that a newer one of their step is about to replace."""
        return [*self._all(), *self._all(".old")]

    def _all(self, suffix: str = "") -> list[Path]:
        return [path for path in self.folder.glob("step-*") if re.fullmatch(rf"step-\d+{re.escape(suffix)}", path.name)]


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _damage(path: Path) -> str | None:
    try:
        damage = manifest.damage(path)
        if damage is None:
            read_index(path)
    except Exception as error:  # a damaged pickle can raise anything
        return f"{type(error).__name__}: {error}"
    return damage


def _write_share(snapshot: Snapshot) -> _Share:
    """Write what this process holds; each process hashes its own files."""
    results, paths = snapshot.write()
    return results, manifest.entries(paths)


def _all_or_none(everyone: list[list[str]]) -> list[list[str]]:
    """Every process learns the differences that any has found."""
    return [next((words for words in everyone if words), [])] * len(everyone)

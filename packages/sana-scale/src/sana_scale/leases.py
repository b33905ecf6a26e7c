"""Leases on a shared folder: who works on what, with nothing in common but the file system."""

import errno
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Leases:
    """One worker's leases: files that it alone created and keeps touching; those of a dead worker run out.

    A lease runs out when its process is gone, which is seen on the same machine only, or when its time stamp has not
    changed for `seconds` by the watcher's own clock: clocks of different machines are never compared. A worker that was
    only slow may lose a lease; then two do the same work, of which the run directory takes the first.
    """

    def __init__(self, folder: Path, *, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._owner = json.dumps({"host": socket.gethostname(), "process": os.getpid(), "name": uuid.uuid4().hex})
        self._held: set[Path] = set()
        self._seen: dict[Path, tuple[int, float]] = {}

    def take(self, index: int) -> bool:
        """Try to take a lease; returns whether it is ours now. In a folder that is gone nothing is leased."""
        path = self._path(index)
        if self._ran_out(path):
            self._bury(path)
        with suppress(FileExistsError), _unless_gone():
            with open(path, "x", encoding="utf-8") as file:
                file.write(self._owner)
            self._held.add(path)
            return True
        return False

    def release(self, index: int) -> None:
        """Give a lease back."""
        path = self._path(index)
        self._held.discard(path)
        with _unless_gone():
            if path.read_text(encoding="utf-8") == self._owner:
                path.unlink()

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Touch the leases from another thread; give back those that are left at the end."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self._seconds / 4):
                for path in tuple(self._held):
                    with suppress(OSError):  # it ran out, is being released, or a network disk missed a beat
                        os.utime(path)

        heart = threading.Thread(target=beat, name="leases", daemon=True)
        heart.start()
        try:
            yield
        finally:
            done.set()
            heart.join()
            for path in tuple(self._held):
                self.release(int(path.name))

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06d}"

    def _ran_out(self, path: Path) -> bool:
        with _unless_gone():
            stamp, owner = path.stat().st_mtime_ns, path.read_text(encoding="utf-8")
            if _has_ended(owner):
                return True
            seen, since = self._seen.get(path, (None, 0.0))
            if seen == stamp:
                return time.monotonic() - since > self._seconds
            self._seen[path] = stamp, time.monotonic()
        return False

    def _bury(self, path: Path) -> None:
        """Only one of several that find the same lease run out can rename it."""
        grave = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        with _unless_gone():
            os.rename(path, grave)
            grave.unlink()


@contextmanager
def _unless_gone() -> Iterator[None]:
    """End where a file is gone; NFS calls one stale that another machine has removed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise


def _has_ended(owner: str) -> bool:
    """Whether a lease's process was on this machine and has ended."""
    try:
        lease = json.loads(owner)
    except ValueError:  # created and not written yet
        return False
    if lease["host"] != socket.gethostname() or sys.platform == "win32":  # where signal 0 is not harmless
        return False
    try:
        os.kill(lease["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False

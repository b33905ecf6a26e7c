"""One training run at a time in a run directory."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sana_train.peers import PeerError, Peers

logger = logging.getLogger(__name__)

_held: set[int] = set()


class RunInUseError(RuntimeError):
    """Another process trains in the run directory; the message names it."""


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir/lock` for as long as the context lasts; a kill releases it too.

    Of processes that train together the first takes the lock for all, and every one of them learns how that went.

    Raises:
        RunInUseError: another run holds it.
        OSError: there can be no such directory.
    """
    peers = Peers()
    try:
        descriptor, holder = peers.first(lambda: _take(run_dir / "lock"))
    except PeerError as error:
        raise OSError(f"the run directory {run_dir} cannot be made ({error}): give another") from error
    if descriptor is None:
        raise RunInUseError(f"{run_dir} is in use by {holder}: stop that run first, or give another run_dir")
    try:
        yield
    finally:
        if peers.rank == 0:
            _held.discard(descriptor)
            os.close(descriptor)


def _take(path: Path) -> tuple[int | None, str]:
    """A descriptor that holds the lock, or None and the process that has it."""
    import fcntl  # Windows has none, and the rest of the package works there

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        os.close(descriptor)
        return None, holder or "another process"
    except OSError as error:
        logger.warning("%s cannot be locked (%s): make sure that no other process trains there", path.parent, error)
    _held.add(descriptor)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor, ""


def _let_go() -> None:
    """A forked data worker shares the lock, and would hold it for seconds after a kill of its parent."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)

"""Files that are on the disk when a call returns, exchanged whole or not at all; a lock that dies with its owner."""

import errno
import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any, Self

logger = logging.getLogger(__name__)


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` as JSON."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: readers see the old file or the new one; a failed write leaves the old one."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_names(path.parent)


def read_text(path: Path) -> str:
    """A file's text; one that another machine has replaced meanwhile, which NFS calls stale, is looked up again."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return path.read_text(encoding="utf-8")


def sync_names(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a file just made or renamed survives a power cut."""
    if sys.platform == "win32":  # which cannot open folders, and keeps names itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RunInUseError(RuntimeError):
    """Another process drives the run; the message names it."""


class FileLock:
    """An exclusive lock on a file for as long as this object lives; the system frees it when the process is killed.

    Where the file system knows no locks, a warning is logged in its place.

    Raises:
        RunInUseError: another process holds it.
    """

    def __init__(self, path: Path, *, purpose: str) -> None:
        self._file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed in release
        try:
            _lock(self._file.fileno())
        except (BlockingIOError, PermissionError) as error:
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise RunInUseError(f"{purpose} is in use by {owner}: wait for it, or choose another one") from error
        except OSError as error:  # such as ENOSYS and ENOLCK of network file systems
            logger.warning("%s cannot be locked (%s): make sure that nobody else drives this run", path.parent, error)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Free the lock for others."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

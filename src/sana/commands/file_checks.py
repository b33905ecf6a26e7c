"""Whether what a command reads and writes can be read and written, before it works for hours."""

import tempfile
from pathlib import Path


def check_input(path: Path, option: str, content: str) -> None:
    """Raise FileNotFoundError where `option` names no file; `content` says what to give."""
    if not path.exists() or path.is_dir():  # a pipe is read as a file is
        what = "a folder" if path.is_dir() else "not there"
        raise FileNotFoundError(f"{option} {path} is {what}: give {content}")


def check_output(folder: Path, out: Path) -> None:
    """Raise ValueError or PermissionError where `folder`, which --out names as `out`, can hold no file.

    A file is written where it is or will be: the permissions of root and of network mounts say nothing.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--out is {out}, but {existing} is a file: give a folder")
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise PermissionError(
            f"--out is {out}, but nothing can be written to {existing} ({error.strerror}): give another --out"
        ) from error

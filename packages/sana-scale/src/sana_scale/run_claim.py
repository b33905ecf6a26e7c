"""Who may use a run directory: one driver at a time, and only for the request that the directory was made for."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sana_scale.files import FileLock, read_text, write_json

RUN = "run.json"
FORMAT = 1


@contextmanager
def claimed(path: Path, description: dict[str, Any], *, reopen: Callable[[], None] | None = None) -> Iterator[None]:
    """Be the only driver of a run directory, which is created where there is none.

    Where `reopen` is given, which makes a finished run go on, n may be larger than it was.

    Raises:
        RunInUseError: another process drives it.
        ValueError: it belongs to a run that was asked for something else, and the message says what differs; or it is
            a file.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"run_dir is {str(path)!r}, a file; it must be a folder, or the name of a new one")
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path / "lock", purpose=f"the run directory {path}"):
        describe(path, description, reopen)
        yield


def describe(path: Path, description: dict[str, Any], reopen: Callable[[], None] | None = None) -> None:
    """Write down what a run is asked for, or check that it is what was asked for before, or more of the same."""
    if (path / RUN).exists():
        there = read_description(path)
        same = fingerprint(there) == fingerprint(description)
        if same and there["n"] == description["n"]:
            return
        # The last batch of another n would have to be drawn again, and images that lost to it are gone.
        more = same and there["n"] < description["n"] and there["n"] % there["batch_size"] == 0
        if not (more and reopen):
            raise ValueError(
                f"{path} is the run directory of another configuration: {differences(there, description)}. "
                "Choose another run_dir, or ask for the same; n alone may rise, in a run of one prompt whose n was a "
                "multiple of batch_size"
            )
        reopen()
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / RUN, {"format": FORMAT, "hash": fingerprint(description), "request": description})


def read_description(path: Path) -> dict[str, Any]:
    """What a run was asked for.

    Raises:
        ValueError: sana_scale did not write its run.json.
    """
    try:
        content = json.loads(read_text(path / RUN))
        version, description = content["format"], dict(content["request"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / RUN} is not what sana_scale writes: choose another run_dir") from error
    if version != FORMAT:
        raise ValueError(f"{path / RUN} has format {version}, this version of sana_scale knows {FORMAT}")
    return description


def check_present(path: Path) -> None:
    """Raise FileNotFoundError where the run directory in `path` is gone."""
    try:
        read_text(path / RUN)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the run directory {path} was removed while it was worked on: start it again"
        ) from error


def fingerprint(description: dict[str, Any]) -> str:
    """A hash of a request without its n: runs that share it have the same whole batches."""
    same = description | {"n": None}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What two descriptions of a run disagree on, for an error message."""
    names = [name for name in sorted(there | here) if there.get(name) != here.get(name)]
    return ", ".join(f"{name} was {there.get(name)!r} and is now {here.get(name)!r}" for name in names)

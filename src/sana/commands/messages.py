"""How the commands speak of trouble: one line on stderr, and exit status 2 where nothing was done."""

import io
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from sana.loading_bars import no_bars

if TYPE_CHECKING:
    from sana_train.data import Skipped

RERUN = "run the same command again to resume"
INTERRUPTED = 130  # what a shell says of a process that Ctrl-C ended
EXPECTED = (ValueError, OSError, FloatingPointError)  # OSError: no such file, disk full, the Hub not reached


@contextmanager
def messages(*, to_resume: str = "", progress: bool = True) -> Iterator[None]:
    """Print expected errors and warnings as one line each; anything else is our mistake and keeps its traceback.

    `to_resume` says how to resume a command that Ctrl-C ended, where that is possible. Without `progress` the bars of
    transformers and of the Hub's client are switched off inside the block.
    """
    _escape_unprintable()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            with _quiet_hub(), nullcontext() if progress else no_bars():
                yield
        except KeyboardInterrupt:
            typer.secho(": ".join(filter(None, ("interrupted", to_resume))), fg="red", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if not _is_expected(error):
                raise
            _stop(error)


def warn(text: object) -> None:
    """Print one line of warning."""
    typer.secho(f"warning: {text}", fg="yellow", err=True)


def warn_of_skipped(skipped: "Sequence[Skipped]", path: Path) -> None:
    """Say how many samples were left out and why, where there are any; `path` lists them."""
    reasons = Counter(sample.reason for sample in skipped)
    if reasons:
        listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        warn(f"skipped {listed}; see {path}")


def _is_expected(error: Exception) -> bool:
    if isinstance(error, ImportError):
        return "pip install" in str(error)  # else nothing that an extra would mend
    torch = sys.modules.get("torch")  # imported by whatever can raise its error
    return isinstance(error, EXPECTED) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def _escape_unprintable() -> None:
    """Print what the encoding of a terminal or file lacks as an escape, where Python would stop with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep to ourselves what the Hub's client says of each retry; when it gives up, that is an error."""
    from huggingface_hub.utils import logging as client  # 0.02 s; when first imported, it sets the level of its logger

    level = client.get_verbosity()
    client.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        client.set_verbosity(level)


def _stop(error: Exception) -> NoReturn:
    notes = [note for note in getattr(error, "__notes__", ()) if not note.startswith("Traceback")]  # of a worker
    typer.secho(". ".join([f"error: {error}", *notes]), fg="red", err=True)
    raise typer.Exit(2) from None


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    warn(message)

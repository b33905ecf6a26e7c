"""How the commands speak of trouble: one line on stderr, and exit status 2 where nothing was done."""

import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from sana_train.data import Skipped

INTERRUPTED = 130  # what a shell says of a process that Ctrl-C ended
EXPECTED = (ValueError, OSError, FloatingPointError)  # OSError: no such file, disk full, the Hub not reached


@contextmanager
def messages(*, goes_on: str = "") -> Iterator[None]:
    """Print expected errors and warnings as one line each; anything else is our mistake and keeps its traceback.

    `goes_on` says how a command that Ctrl-C ended can be taken up again, where it can.
    """
    with warnings.catch_warnings(), _quiet_hub():
        warnings.showwarning = _show_warning
        try:
            yield
        except KeyboardInterrupt:
            typer.secho(": ".join(filter(None, ("interrupted", goes_on))), fg="red", err=True)
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


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep to ourselves what the Hub's client says of each retry; when it gives up, that is an error."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _stop(error: Exception) -> NoReturn:
    typer.secho(". ".join([f"error: {error}", *getattr(error, "__notes__", ())]), fg="red", err=True)
    raise typer.Exit(2) from None


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    warn(message)

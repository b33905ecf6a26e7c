"""How the commands speak of trouble: one line on stderr, and exit status 2 where nothing was done."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
import typer

if TYPE_CHECKING:
    from sana_train.data import Skipped

# OSError: no such file, no permission, disk full, the Hub not reached.
EXPECTED = (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)


@contextmanager
def messages() -> Iterator[None]:
    """Print expected errors and warnings as one line each; anything else is our mistake and keeps its traceback."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except EXPECTED as error:
            _stop(error)
        except ImportError as error:
            if "pip install" not in str(error):
                raise  # nothing that an extra would mend
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


def _stop(error: Exception) -> NoReturn:
    typer.secho(". ".join([f"error: {error}", *getattr(error, "__notes__", ())]), fg="red", err=True)
    raise typer.Exit(2) from None


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    warn(message)

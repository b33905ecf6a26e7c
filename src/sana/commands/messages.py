"""How the commands speak of trouble: one line on stderr, and exit status 2 where nothing was done."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import typer

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
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(2) from None


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    typer.secho(f"warning: {message}", fg="yellow", err=True)

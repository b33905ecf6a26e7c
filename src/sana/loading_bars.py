"""The bars that other libraries show while they load weights, switched off for a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

Loaded = TypeVar("Loaded")


@contextmanager
def no_bars(switch: ModuleType | None = None) -> Iterator[None]:
    """Switch bars off, and on exit back to what they were.

    `switch` is `transformers.utils.logging`, which counts for the Hub's client too, or the same of diffusers.
    """
    if switch is None:
        from transformers.utils import logging

        switch = logging
    shown = switch.is_progress_bar_enabled()
    switch.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            switch.enable_progress_bar()


def without_bars(load: Callable[[], Loaded]) -> Loaded:
    """What `load` returns; as `partial(without_bars, load)`, a loader that is quiet in other processes too."""
    with no_bars():
        return load()

"""Stopping when asked to: SIGTERM, as schedulers and torchrun send it, ends the run after the step at hand."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether this process has been asked to stop."""

    def __init__(self) -> None:
        self.made = False


@contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Within this context SIGTERM sets `made` instead of ending the process.

    Signals reach a program's main thread only; elsewhere the request is never made.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        request.made = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)

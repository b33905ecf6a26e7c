"""How fast a run goes and how long it will take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from tqdm import tqdm

from sana_train.config import TrainConfig


class Progress:
    """A bar with images per second and the time left, and the same numbers for the log. A context manager.

    Args:
        config: of the run.
        step: where the run starts.
        shown: whether there is a bar at all.
    """

    def __init__(self, config: TrainConfig, step: int, *, shown: bool) -> None:
        self._bar = tqdm(total=config.steps, initial=step, unit="step", disable=not shown)
        self._step = step
        self._images = 0
        self._steps = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def advance(self, step: int, images: int) -> None:
        """Count one step of so many images, which ended at `step`."""
        self.move_to(step)
        self._images += images
        self._steps += 1

    def move_to(self, step: int) -> None:
        """Show `step`, which may lie before the last one."""
        self._bar.update(step - self._step)
        self._step = step

    def show(self, loss: float) -> None:
        """Show the loss beside the bar."""
        self._bar.set_postfix(loss=f"{loss:.4f}", images=f"{self.rates()['images_per_second']}/s")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out of the rates what is done within this context."""
        before = time.monotonic()
        yield
        self._started += time.monotonic() - before

    def rates(self) -> dict[str, float]:
        """Means since the run was started or resumed, without evaluations and checkpoints."""
        seconds = time.monotonic() - self._started
        return {
            "images_per_second": round(self._images / seconds, 3),
            "seconds_per_step": round(seconds / max(self._steps, 1), 4),
        }

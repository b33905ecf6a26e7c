"""Many scenes at once, drawn by as many processes as there are cores: some 3,000 a second and core."""

from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from recipes.emoji.scenes import SIZE, render, scene_at
from recipes.emoji.sprites import SpriteSheet, SpriteSource

CHUNK = 500
Pictures = npt.NDArray[np.uint8]

_sheets: dict[int, SpriteSheet] = {}  # of this process: sprites are tinted and scaled once


def render_scenes(
    count: int, source: SpriteSource, *, seed: int = 0, processes: int = 1, progress: bool = True
) -> Pictures:
    """The first `count` scenes of the sequence `seed`: (count, 128, 128, 3), the same for any number of processes."""
    pictures = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    starts = range(0, count, CHUNK)
    draw = partial(_draw, source=source, count=count, seed=seed)
    with ExitStack() as stack:
        # Spawned, not forked: a process with threads, such as PyTorch's, may hang when it is forked.
        pool = stack.enter_context(get_context("spawn").Pool(processes)) if processes > 1 else None
        chunks = pool.imap(draw, starts) if pool else map(draw, starts)
        shown = tqdm(chunks, desc="scenes", total=len(starts), unit=f"x{CHUNK}", disable=not progress)
        for start, chunk in zip(starts, shown, strict=True):
            pictures[start : start + len(chunk)] = chunk
    return pictures


def _draw(start: int, *, source: SpriteSource, count: int, seed: int) -> Pictures:
    sheet = _sheets.setdefault(seed, SpriteSheet(source))
    indices = range(start, min(start + CHUNK, count))
    return np.stack([render(scene_at(index, sheet, seed=seed), sheet) for index in indices])

"""A run with two worker processes: `python shared_run.py RUN_DIR LOG N STOP`. Prints the outcome as JSON.

Every image that is drawn is a line in LOG: the worker and the seed.
"""

import json
import os
import sys
import time
from collections.abc import Sequence

from PIL import Image

from sana_scale import SharedDir, Threshold, best_of_n

WORTH = [seed * 7919 % 1009 for seed in range(2000)]


class Painter:
    """Draws a pixel that holds its seed's worth, slowly, and writes down that it did."""

    def __call__(self, prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
        """One image per seed."""
        for seed in seeds:
            time.sleep(0.01)
            os.write(self.log(), f"{os.getpid()} {seed}\n".encode())
        return [Image.new("I;16", (1, 1), WORTH[seed]) for seed in seeds]

    def log(self) -> int:
        """The log, opened where it is needed."""
        return os.open(sys.argv[2], os.O_CREAT | os.O_APPEND | os.O_WRONLY)


def make_judge():
    """One that reads the pixel, or fails where it is told to."""

    def score(prompt: str, images: Sequence[Image.Image]) -> list[float]:
        if prompt == "fail":
            raise MemoryError("no room for the judge")
        return [float(image.getpixel((0, 0))) for image in images]

    return score


def main() -> None:
    """Drive the run."""
    run_dir, n, threshold = sys.argv[1], int(sys.argv[3]), float(sys.argv[4])
    executor = SharedDir(Painter, make_judge, workers=2)
    prompt = "fail" if n == 7 else "a"
    stop = Threshold(threshold)
    result = best_of_n(None, None, prompt, n=n, keep=3, batch_size=2, run_dir=run_dir, stop=stop, executor=executor)
    best = [image.getpixel((0, 0)) for image in result.images]
    print(json.dumps({"pairs": [(one.seed, one.score) for one in result.candidates], "best": best}))


if __name__ == "__main__":
    main()

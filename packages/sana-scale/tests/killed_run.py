"""A run that is killed at every change it makes to its directory, and started again: `python killed_run.py FOLDER`.

Each life is a fork. For one event after another (creating, opening, renaming, removing something below the run
directory) a first life is killed right before it, a second one finishes. Prints one JSON line per event: what was drawn
in each life and the outcome.
"""

import json
import os
import signal
import sys
from pathlib import Path

from PIL import Image

from sana_scale import Threshold, best_of_n

N, BATCH, KEEP = 8, 2, 2
STOP = Threshold(78)  # holds at seed 4, in the third batch of four
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


def live(run_dir: Path, log: Path, kill_at: int | None) -> bool:
    """Run in a fork, killed before its event `kill_at`; returns whether it ended by itself."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if kill_at is not None:
                arm(run_dir, kill_at)
            search(run_dir, log)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0


def arm(run_dir: Path, kill_at: int) -> None:
    """Die right before the event of that number below `run_dir`."""
    events = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal events
        reading = event == "open" and not int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES and not reading and str(run_dir) in repr(arguments[:2]):
            if events == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            events += 1

    sys.addaudithook(watch)


def search(run_dir: Path, log: Path) -> None:
    """The run, which writes down what it draws and what it ends with."""
    lines = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def paint(prompt: str, seeds: list[int]) -> list[Image.Image]:
        os.write(lines, f"{json.dumps(seeds)}\n".encode())
        return [Image.new("L", (2, 2), (seed * 37 + 31) % 101) for seed in seeds]

    def score(prompt: str, images: list[Image.Image]) -> list[float]:
        return [float(image.getpixel((0, 0))) for image in images]

    result = best_of_n(paint, score, "a", n=N, keep=KEEP, batch_size=BATCH, run_dir=run_dir, stop=STOP)
    pairs = [(candidate.seed, candidate.score) for candidate in result.candidates]
    os.write(lines, f"{json.dumps({'pairs': pairs, 'pixels': [i.tobytes().hex() for i in result.images]})}\n".encode())


def main(folder: Path) -> None:
    """Every event in turn, until a life has none of that number."""
    kill_at, survived = 0, False
    while not survived:
        run_dir, log = folder / f"run-{kill_at}", folder / f"log-{kill_at}"
        survived = live(run_dir, log, kill_at)
        before = log.read_text().splitlines() if log.exists() else []
        live(run_dir, log, None)
        after = log.read_text().splitlines()[len(before) :]
        files = sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file())
        print(json.dumps({"before": [*map(json.loads, before)], "after": [*map(json.loads, after)], "files": files}))
        kill_at += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))

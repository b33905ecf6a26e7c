"""Kill runs of best-of-N at random instants, let them go on, and compare them with a run that nobody killed.

    python soak_best_of_n.py [--runs 4] [--seed 0] [--out results.json]     all of it
    python soak_best_of_n.py --quick                                        a run of each executor

A run draws 120 images in batches of two. With SharedDir and Ray two workers draw; two of them are killed, then the
driver; in a run of `Local` the process is killed three times. Nothing may be lost or counted twice; what is drawn again
is counted. Exits with 1 if any result differs.
"""

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from sana_scale import Executor, Local, Ray, SharedDir, best_of_n

IMAGES, BATCH, KEEP, KILLS = 120, 2, 3, 3
EXECUTORS = ("local", "shared-dir", "ray")
IN_FLIGHT = 2 * BATCH  # of one worker: the batch that is judged and the one that is drawn
WORTH = [seed * 7919 % 1009 for seed in range(IMAGES)]
EXPECTED = sorted(([seed, float(WORTH[seed])] for seed in range(IMAGES)), key=lambda pair: (-pair[1], pair[0]))


class Painter:
    """Draws a pixel that holds its seed's worth, slowly, and writes down that it did."""

    def __init__(self, log: str) -> None:
        self.log = log

    def __call__(self, prompt: str, seeds: Sequence[int]) -> list[Image.Image]:
        """One image per seed."""
        log = os.open(self.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        for seed in seeds:
            time.sleep(0.01)
            os.write(log, f"{os.getpid()} {seed}\n".encode())
        os.close(log)
        return [Image.new("I;16", (1, 1), WORTH[seed]) for seed in seeds]


class Reader:
    """Reads the pixel."""

    def __call__(self, prompt: str, images: Sequence[Image.Image]) -> list[float]:
        """One score per image."""
        return [float(image.getpixel((0, 0))) for image in images]  # type: ignore[arg-type]


def drive(name: str, run_dir: str, log: str) -> None:
    """One life of a run; prints the outcome."""
    paint = partial(Painter, log)
    executors: dict[str, Executor] = {
        "local": Local(),
        "shared-dir": SharedDir(paint, Reader, workers=2),
        "ray": Ray(paint, Reader, samplers=2),
    }
    here = (Painter(log), Reader()) if name == "local" else (None, None)
    result = best_of_n(*here, "a", n=IMAGES, keep=KEEP, batch_size=BATCH, run_dir=run_dir, executor=executors[name])
    best = [image.getpixel((0, 0)) for image in result.images]
    print(json.dumps({"pairs": [(one.seed, one.score) for one in result.candidates], "best": best}))


def killed_run(name: str, folder: Path, moments: random.Random) -> dict[str, Any]:
    """A run with `KILLS` kills at random instants; the last is the driver's."""
    run_dir, log = folder / "run", folder / "log"
    command = [sys.executable, __file__, "--drive", name, str(run_dir), str(log)]
    in_flight = 0
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as life:
            for kill in range(killed(folder), KILLS):
                wait_for(len(drawn(log)) + moments.randrange(1, IMAGES // (KILLS + 1)), log, life)
                time.sleep(moments.random() * 0.02)
                driver = name == "local" or kill == KILLS - 1
                os.kill(life.pid if driver else drawn(log)[-1][0], signal.SIGKILL)
                in_flight += IN_FLIGHT * (2 if driver and name != "local" else 1)
                (folder / "kills").write_text(str(kill + 1))
                if driver:
                    break
            output, errors = life.communicate()
        if life.returncode == 0:
            return verdict(json.loads(output), log, kills=killed(folder), in_flight=in_flight)
        if life.returncode != -signal.SIGKILL:
            raise RuntimeError(f"a life of {name} failed: {errors}")


def verdict(outcome: dict[str, Any], log: Path, *, kills: int, in_flight: int) -> dict[str, Any]:
    """What the outcome lacks, has twice or has wrong, and how many images were drawn more than once."""
    seeds = Counter(seed for seed, _ in outcome["pairs"])
    again = sum(Counter(seed for _, seed in drawn(log)).values()) - IMAGES
    expected = {"pairs": EXPECTED, "best": [WORTH[seed] for seed, _ in EXPECTED[:KEEP]]}
    return {
        "kills": kills,
        "lost": IMAGES - len(seeds),
        "duplicated": sum(seeds.values()) - len(seeds),
        "drawn_again": again,
        "at_most": in_flight,
        "as_if_never_killed": outcome == expected,
    }


def killed(folder: Path) -> int:
    """How many kills there were so far."""
    path = folder / "kills"
    return int(path.read_text()) if path.exists() else 0


def drawn(log: Path) -> list[tuple[int, int]]:
    """(process, seed) of every image that was drawn, in time."""
    lines = log.read_text().splitlines() if log.exists() else []
    pairs = (line.split() for line in lines)
    return [(int(process), int(seed)) for process, seed in pairs]


def wait_for(lines: int, log: Path, life: "subprocess.Popen[str]") -> None:
    """Until so many images are drawn."""
    while len(drawn(log)) < lines:
        if life.poll() is not None:
            raise RuntimeError(f"the run ended before its kill: {life.communicate()[1]}")
        time.sleep(0.005)


def main() -> None:
    """All executors in turn."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--drive", nargs=3, metavar=("EXECUTOR", "RUN_DIR", "LOG"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(*options.drive)
        return
    moments = random.Random(options.seed)
    outcomes = []
    runs = 1 if options.quick else options.runs
    for name in tqdm([name for name in EXECUTORS for _ in range(runs)], unit="run"):
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append({"executor": name, **killed_run(name, Path(folder), moments)})
    good = all(one["as_if_never_killed"] and one["drawn_again"] <= one["at_most"] for one in outcomes)
    report = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "seed": options.seed,
        "images": IMAGES,
        **{name: sum(one[name] for one in outcomes) for name in ("kills", "lost", "duplicated", "drawn_again")},
        "as_if_never_killed": good,
        "runs": outcomes,
    }
    text = json.dumps(report, indent=1) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text)
    sys.exit(not good)


if __name__ == "__main__":
    main()

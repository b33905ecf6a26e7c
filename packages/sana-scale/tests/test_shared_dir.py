import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from sana_scale import Halving, Judge, Sampler, SharedDir, Threshold, best_of_n, best_of_n_many, work_on
from sana_scale.leases import Leases
from sana_scale.run_directory import LEASES, remove_traces
from sana_scale.shared_dir import _stored as stored
from sana_scale.shared_run import SharedRun, write_wanted

SHARED_RUN = Path(__file__).with_name("shared_run.py")


def worth(seed):
    return seed * 7919 % 1009


class Painter:
    """Draws pixels that hold their seed's worth; previews are the image itself."""

    def __call__(self, prompt, seeds):
        return [Image.new("I;16", (1, 1), worth(seed)) for seed in seeds]

    def previewing(self, prompt, seeds, *, at, keep):
        for _ in at:
            seeds = [seeds[place] for place in keep(self(prompt, seeds))]
        return list(zip(seeds, self(prompt, seeds), strict=True))


class Reader:
    def __call__(self, prompt, images):
        return [image.getpixel((0, 0)) for image in images]


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Joined:
    """Workers in threads of this process, which join the run as other machines would."""

    def __init__(self, run_dir, count):
        self.threads = [threading.Thread(target=self.work, args=(run_dir,)) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def work(self, run_dir):
        wait_until((run_dir / "run.json").exists)
        work_on(run_dir, Painter, Reader)

    def join(self):
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("ask", [{}, {"stop": Threshold(900)}, {"prune": Halving(pilot=8)}], ids=str)
def test_a_shared_run_gives_what_a_local_one_gives(tmp_path, ask, workers):
    ask = {"n": 60, "keep": 3, "batch_size": 4} | ask
    joined = Joined(tmp_path / "run", workers)
    shared = best_of_n(None, None, "a", run_dir=tmp_path / "run", executor=SharedDir(Painter, Reader, workers=0), **ask)
    joined.join()
    local = best_of_n(Painter(), Reader(), "a", **ask)
    assert shared == local
    assert best_of_n(None, None, "a", run_dir=tmp_path / "run", executor=SharedDir(Painter, Reader), **ask) == shared


def test_a_run_moves_from_one_executor_to_the_other(paint, tmp_path):
    ask = {"n": 40, "keep": 2, "batch_size": 4}

    def interrupt(progress):
        if progress.judged == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        best_of_n(Painter(), Reader(), "a", run_dir=tmp_path, on_progress=interrupt, **ask)
    joined = Joined(tmp_path, 2)
    shared = best_of_n(None, None, "a", run_dir=tmp_path, executor=SharedDir(Painter, Reader, workers=0), **ask)
    joined.join()
    assert shared == best_of_n(Painter(), Reader(), "a", **ask)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("prune", [None, Halving(pilot=4)], ids=str)
def test_a_shared_run_of_many_prompts_gives_what_a_local_one_gives(tmp_path, prune, workers):
    ask = {"n": 16, "budget": 40, "keep": 2, "batch_size": 4, "stop": Threshold(950), "prune": prune}
    prompts = ["a", "b", "c", "a"]
    executor = SharedDir(Painter, Reader, workers=0)
    joined = Joined(tmp_path / "run", workers)
    shared = best_of_n_many(None, None, prompts, run_dir=tmp_path / "run", executor=executor, **ask)
    joined.join()
    local = best_of_n_many(Painter(), Reader(), prompts, **ask)
    assert shared == local
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"run.json", "lock", *(f"{i:05d}" for i in range(4))}
    assert best_of_n_many(None, None, prompts, run_dir=tmp_path / "run", executor=executor, **ask) == shared


def test_a_run_of_many_prompts_moves_between_executors(tmp_path):
    ask = {"n": 16, "budget": 40, "batch_size": 4, "run_dir": tmp_path}
    prompts, seen = ["a", "b", "c"], []

    def interrupt(progress):
        seen.append(progress)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        best_of_n_many(Painter(), Reader(), prompts, on_progress=interrupt, **ask)
    executor = SharedDir(Painter, Reader, workers=0)
    joined = Joined(tmp_path, 2)
    shared = best_of_n_many(None, None, prompts, executor=executor, **ask)
    joined.join()
    assert shared == best_of_n_many(Painter(), Reader(), prompts, **ask | {"run_dir": None})


def drive(run_dir, log, n, stop):
    command = [sys.executable, str(SHARED_RUN), str(run_dir), str(log), str(n), str(stop)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def drawn(log):
    return [tuple(map(int, line.split())) for line in log.read_text().splitlines()] if log.exists() else []


def wait_for(lines, log, life):
    wait_until(lambda: life.poll() is not None or len(drawn(log)) >= lines)
    assert life.poll() is None


def alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # gone, also between opening and reading
        return False
    return state != "Z"  # a killed orphan that nobody waits for is dead as well


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for orphans in /proc")
def test_killed_workers_and_a_killed_driver_lose_nothing(tmp_path):
    run_dir, log, moments = tmp_path / "run", tmp_path / "log", random.Random(0)
    kills = 0
    with drive(run_dir, log, 120, 2000) as life:
        for lines in (10, 30):  # workers, whoever drew last
            wait_for(lines + moments.randrange(10), log, life)
            os.kill(drawn(log)[-1][0], signal.SIGKILL)
            kills += 1
        wait_for(60, log, life)
        life.kill()
        life.communicate()
        kills += 2  # its two workers leave, each at the end of its batch
    with drive(run_dir, log, 120, 2000) as life:
        output, errors = life.communicate()
    assert life.returncode == 0, errors
    outcome = json.loads(output)
    expected = sorted(range(120), key=lambda seed: (-worth(seed), seed))
    assert outcome == {"pairs": [[seed, worth(seed)] for seed in expected], "best": [worth(s) for s in expected[:3]]}
    counts = Counter(seed for _, seed in drawn(log))
    assert set(counts) == set(range(120))
    assert sum(counts.values()) <= 120 + kills * 2 * 2  # two batches of two in flight
    workers = {process for process, _ in drawn(log)}
    wait_until(lambda: not any(map(alive, workers)))  # none outlives its driver


def test_an_error_in_a_worker_reaches_the_driver(tmp_path):
    with drive(tmp_path / "run", tmp_path / "log", 7, 2000) as life:
        _, errors = life.communicate()
    assert life.returncode == 1
    assert "MemoryError: no room for the judge" in errors
    assert "while judging the seeds" in errors
    others = Leases(tmp_path / "run/leases", seconds=60)  # what the ended workers held is free at once
    assert all(others.take(int(path.name)) for path in sorted((tmp_path / "run/leases").iterdir()))


UNGUARDED = """
import sys
from sana_scale import SharedDir, best_of_n

class Maker:
    pass

best_of_n(None, None, "a", n=4, run_dir=sys.argv[1], executor=SharedDir(Maker, Maker))
"""


def test_a_script_that_starts_itself_again_is_told_why(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "run")]
    life = subprocess.run(command, capture_output=True, text=True)
    assert life.returncode == 1
    assert "Scripts that start workers need `if __name__ == '__main__':`" in life.stderr


WITH_A_LOCK = """
import multiprocessing
import sys
from PIL import Image
from sana_scale import SharedDir, best_of_n

class Maker:
    def __init__(self):
        self.lock = multiprocessing.get_context("spawn").RLock()

    def __call__(self, prompt, items):
        return [Image.new("L", (1, 1)) if isinstance(item, int) else 1.0 for item in items]

if __name__ == "__main__":
    best_of_n(None, None, "a", n=4, batch_size=1, run_dir=sys.argv[1], executor=SharedDir(Maker, Maker, workers=2))
"""


def test_workers_free_their_locks_when_they_are_told_to_leave(tmp_path):
    (tmp_path / "script.py").write_text(WITH_A_LOCK)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "run")]
    life = subprocess.run(command, capture_output=True, text=True)
    assert (life.returncode, life.stderr) == (0, "")


FAILING = """
import sys
from PIL import Image
from sana_scale import SharedDir, best_of_n

class Painter:
    def __call__(self, prompt, seeds):
        return [Image.new("L", (1, 1)) for seed in seeds]

class Judge:
    def __call__(self, prompt, images):
        if prompt == "leave":
            sys.exit(0)
        raise ValueError("x" * 200_000 + " is too long")

if __name__ == "__main__":
    best_of_n(None, None, sys.argv[2], n=4, run_dir=sys.argv[1], executor=SharedDir(Painter, Judge, workers=2))
"""


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("fail", "xxx is too long"),  # larger than the pipe it comes through
        ("leave", "every worker ended with exit code 0 and left batches undone, the first is batch 0 of 'leave'"),
    ],
)
def test_workers_that_cannot_go_on_end_the_run(tmp_path, prompt, words):
    (tmp_path / "script.py").write_text(FAILING)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "run"), prompt]
    life = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert life.returncode == 1
    assert words in life.stderr


def interrupt(progress):
    raise KeyboardInterrupt


def test_a_worker_that_was_late_stores_its_batch_in_a_run_that_was_reopened(tmp_path, monkeypatch):
    ask = {"batch_size": 4, "run_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        best_of_n(Painter(), Reader(), "a", n=8, on_progress=interrupt, **ask)
    late = SharedRun.opened(tmp_path, Painter(), Reader()).searches[0]
    judged, sync = late.judge(late.draw(1)), os.fsync

    def finish_and_reopen(descriptor):  # in the middle of storing a picture
        monkeypatch.setattr(os, "fsync", sync)
        best_of_n(Painter(), Reader(), "a", n=8, **ask)
        with pytest.raises(KeyboardInterrupt):
            best_of_n(Painter(), Reader(), "a", n=16, on_progress=interrupt, **ask)

    monkeypatch.setattr(os, "fsync", finish_and_reopen)
    assert stored(late, judged, tmp_path)
    assert late.store.recorded(1).seeds == (4, 5, 6, 7)
    assert best_of_n(Painter(), Reader(), "a", n=16, **ask) == best_of_n(Painter(), Reader(), "a", n=16, batch_size=4)


def test_a_late_worker_does_not_bring_back_a_directory_that_was_deleted(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        best_of_n(Painter(), Reader(), "a", n=8, batch_size=4, run_dir=run, on_progress=interrupt)
    late = SharedRun.opened(run, Painter(), Reader()).searches[0]
    judged = late.judge(late.draw(1))
    shutil.rmtree(run)
    with pytest.raises(FileNotFoundError, match="was removed while it was worked on"):
        stored(late, judged, run)
    assert not run.exists()


def test_a_run_that_is_deleted_ends_its_driver_and_an_idle_worker(tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(time, "sleep", lambda seconds: shutil.rmtree(run, ignore_errors=True))  # between two looks
    with pytest.raises(FileNotFoundError, match="was removed while it was worked on"):
        best_of_n(None, None, "a", n=8, run_dir=run, executor=SharedDir(Painter, Reader, workers=0))
    with pytest.raises(KeyboardInterrupt):
        best_of_n(Painter(), Reader(), "a", n=16, run_dir=run, on_progress=interrupt)
    with pytest.raises(FileNotFoundError, match="was removed while it was worked on"):
        work_on(run, Painter, Reader)  # nobody drives the run, so there is nothing to do


def test_no_lease_is_left_by_a_worker_that_is_late(tmp_path, monkeypatch):
    (tmp_path / LEASES).mkdir()
    late, taken, remove = Leases(tmp_path / LEASES, seconds=60), [], os.rmdir

    def rmdir(path, **options):  # the folder is empty, and about to go
        taken.append(late.take(0))
        remove(path, **options)

    monkeypatch.setattr(os, "rmdir", rmdir)
    remove_traces(tmp_path)
    assert taken == [False]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stale", [False, True], ids=["", "after a kill"])
def test_a_worker_that_joins_while_a_run_is_reopened_stays(tmp_path, monkeypatch, stale):
    run, ask = tmp_path / "run", {"keep": 2, "batch_size": 4}
    first = best_of_n(Painter(), Reader(), "a", n=8, run_dir=run, **ask)
    if stale:
        write_wanted(run, [(0, 0), (0, 1)])
    joined, looked, results, replace, sleep = [], threading.Event(), [], os.replace, time.sleep

    def nap(seconds):
        if threading.current_thread() in joined:
            looked.set()
        sleep(seconds)

    def join_first(old, new):
        if Path(new) == run / "run.json" and not joined:
            joined.extend(Joined(run, 1).threads)
            assert looked.wait(60)  # it has opened the run of the old n
        replace(old, new)

    monkeypatch.setattr(time, "sleep", nap)
    monkeypatch.setattr(os, "replace", join_first)
    executor = SharedDir(Painter, Reader, workers=0)

    def drive():
        results.append(best_of_n(None, None, "a", n=16, run_dir=run, executor=executor, **ask))

    driver = threading.Thread(target=drive, daemon=True)
    driver.start()
    driver.join(60)
    assert results == [best_of_n(Painter(), Reader(), "a", n=16, **ask)] != [first]
    joined[0].join(60)
    assert not joined[0].is_alive()


def test_a_shared_run_goes_on_with_a_larger_n(tmp_path):
    run = tmp_path / "run"

    def work(n):
        wait_until((run / "run.json").exists)
        wait_until(lambda: json.loads((run / "run.json").read_text())["request"]["n"] == n)
        work_on(run, Painter, Reader)

    ask = {"keep": 3, "batch_size": 4}
    for n in (8, 16):
        worker = threading.Thread(target=work, args=(n,))
        worker.start()
        shared = best_of_n(None, None, "a", n=n, run_dir=run, executor=SharedDir(Painter, Reader, workers=0), **ask)
        worker.join(60)
        assert not worker.is_alive()
    assert shared == best_of_n(Painter(), Reader(), "a", n=16, **ask)


def test_it_takes_a_directory_and_no_sampler_of_the_call(paint, blue, tmp_path):
    executor = SharedDir(Painter, Reader)
    with pytest.raises(ValueError, match="give run_dir="):
        best_of_n(None, None, "a", n=4, executor=executor)
    with pytest.raises(ValueError, match="pass None for both"):
        best_of_n(paint, blue, "a", n=4, executor=executor, run_dir=tmp_path)
    assert isinstance(Painter(), Sampler)
    assert isinstance(Reader(), Judge)


def test_what_cannot_travel_is_refused_at_once():
    with pytest.raises(TypeError, match="functions or classes of a module"):
        SharedDir(lambda: Painter(), Reader)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        ({"workers": -1}, "workers is -1; it must be a whole number"),
        ({"workers": 1.5}, "workers is 1.5; it must be a whole number"),
        ({"lease_seconds": 0}, "lease_seconds is 0; it must be above 0 and finite"),
        ({"lease_seconds": float("inf")}, "lease_seconds is inf; it must be above 0 and finite"),
        ({"devices": "0,1"}, "devices is '0,1'; it must be a tuple"),
    ],
)
def test_senseless_settings_are_refused(ask, words):
    with pytest.raises((TypeError, ValueError), match=words):
        SharedDir(Painter, Reader, **ask)


def test_there_is_nothing_to_join_where_no_run_is(tmp_path):
    with pytest.raises(FileNotFoundError):
        work_on(tmp_path, Painter, Reader)

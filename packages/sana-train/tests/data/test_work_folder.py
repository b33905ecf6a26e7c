import multiprocessing
import os
import signal
import time

import pytest

from sana_train.data.work_folder import WorkFolder

UNITS = [f"{number:02d}" for number in range(12)]


def work_on(folder, log, seconds):
    work = WorkFolder(folder, {"a": 1})
    for unit in work.pending(UNITS):
        with log.open("a") as file:
            file.write(f"{unit} {os.getpid()}\n")
        time.sleep(seconds)
        work.finish(unit, {"unit": unit})


@pytest.fixture
def start(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = []

    def start(seconds):
        process = context.Process(target=work_on, args=(tmp_path / "work", tmp_path / "log", seconds))
        processes.append(process)
        process.start()
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()


def done(tmp_path):
    return [line.split() for line in (tmp_path / "log").read_text().splitlines()]


def test_processes_share_the_units_and_do_each_once(start, tmp_path):
    for process in [start(0.02), start(0.02)]:
        process.join()
    lines = done(tmp_path)
    assert sorted(unit for unit, _ in lines) == UNITS
    assert len({process for _, process in lines}) == 2


def test_a_killed_process_leaves_its_unit_to_the_others(start, tmp_path):
    doomed, other = start(1000), None
    while not (tmp_path / "log").exists():
        time.sleep(0.01)
    other = start(0)
    time.sleep(0.2)
    os.kill(doomed.pid, signal.SIGKILL)
    other.join(10)
    work = WorkFolder(tmp_path / "work", {"a": 1})
    assert [work.facts(unit) for unit in UNITS] == [{"unit": unit} for unit in UNITS]
    assert [unit for unit, _ in done(tmp_path)].count("00") == 2


def test_a_unit_that_is_given_up_is_left_to_be_done(tmp_path):
    work = WorkFolder(tmp_path, {})
    for unit in work.pending(["a", "b"]):
        if unit == "b":
            break
        work.finish(unit, {})
    assert list(WorkFolder(tmp_path, {}).pending(["a", "b"])) == ["b"]
    work.forget("a")
    assert list(work.pending(["a"])) == ["a"]


def test_a_folder_that_was_started_otherwise_is_refused(tmp_path):
    WorkFolder(tmp_path, {"model": "x", "size": [1, 2]})
    WorkFolder(tmp_path, {"model": "x", "size": (1, 2)})
    with pytest.raises(ValueError, match=r"was started otherwise \(model x -> y; new None -> 1\)"):
        WorkFolder(tmp_path, {"model": "y", "size": [1, 2], "new": 1})

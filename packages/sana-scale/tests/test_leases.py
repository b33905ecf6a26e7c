import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sana_scale.leases import Leases


def test_a_lease_has_one_owner(tmp_path):
    one, other = Leases(tmp_path, seconds=60), Leases(tmp_path, seconds=60)
    assert one.take(3)
    assert not other.take(3)
    assert other.take(4)
    one.release(3)
    assert other.take(3)


def test_of_many_that_try_one_gets_it(tmp_path):
    start, winners = threading.Barrier(8), []

    def grab():
        leases = Leases(tmp_path, seconds=60)
        for index in range(20):
            start.wait()
            if leases.take(index):
                winners.append(index)

    threads = [threading.Thread(target=grab) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(winners) == list(range(20))


def test_a_folder_that_is_gone_leases_nothing_and_is_not_made_again(tmp_path):
    leases = Leases(tmp_path / "leases", seconds=60)
    assert not leases.take(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [(Path, "read_text"), (Path, "stat"), (os, "rename")], ids=str)
def test_a_lease_that_another_machine_removes_meanwhile_is_gone(tmp_path, monkeypatch, step):
    owner = {"host": socket.gethostname(), "process": 2**22 + 1, "name": "x"}  # above the highest process id
    (tmp_path / "000000").write_text(json.dumps(owner))
    leases = Leases(tmp_path, seconds=60)

    def stale(*arguments, **options):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as network:
        network.setattr(*step, stale)
        assert not leases.take(0)
        leases.release(0)
    assert leases.take(0)


def test_a_lease_that_nobody_touches_runs_out(tmp_path):
    silent, waiting = Leases(tmp_path, seconds=0.1), Leases(tmp_path, seconds=0.1)
    assert silent.take(0)
    assert not waiting.take(0)  # seen for the first time: its age is not known
    time.sleep(0.15)
    assert waiting.take(0)
    silent.release(0)  # it is another one's now
    assert not Leases(tmp_path, seconds=0.1).take(0)


def test_a_lease_that_is_kept_alive_does_not_run_out(tmp_path):
    alive, waiting = Leases(tmp_path, seconds=2.0), Leases(tmp_path, seconds=2.0)
    with alive.kept_alive():
        assert alive.take(0)
        stamp = (tmp_path / "000000").stat().st_mtime_ns
        deadline = time.monotonic() + 20
        while (tmp_path / "000000").stat().st_mtime_ns == stamp:
            assert time.monotonic() < deadline
            assert not waiting.take(0)
            time.sleep(0.05)
    assert waiting.take(0)  # given back at the end


def test_a_disk_that_fails_for_a_moment_does_not_end_the_heartbeat(tmp_path, monkeypatch):
    failures = iter([OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "Input/output error")])
    touch, touched = os.utime, threading.Event()

    def utime(path):
        if failure := next(failures, None):
            raise failure
        touch(path)
        touched.set()

    monkeypatch.setattr(os, "utime", utime)
    leases = Leases(tmp_path, seconds=0.2)
    with leases.kept_alive():
        assert leases.take(0)
        assert touched.wait(20)


def test_the_lease_of_a_process_that_is_gone_is_free_at_once(tmp_path):
    code = "import pathlib, sys, sana_scale.leases as l; l.Leases(pathlib.Path(sys.argv[1]), seconds=60).take(0)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    owner = json.loads((tmp_path / "000000").read_text())
    assert (owner["host"], owner["process"] != os.getpid()) == (socket.gethostname(), True)
    assert Leases(tmp_path, seconds=60).take(0)


def test_the_lease_of_another_machine_is_not_judged_by_its_process(tmp_path):
    (tmp_path / "000000").write_text(json.dumps({"host": "elsewhere", "process": 2**22 + 1, "name": "x"}))
    assert not Leases(tmp_path, seconds=60).take(0)

import os
import signal
import socket
import subprocess
import sys

import pytest

from sana_train.run_lock import RunInUseError, run_lock


def test_a_second_run_is_told_who_holds_the_directory(tmp_path):
    holder = f"in use by process {os.getpid()} on {socket.gethostname()}"
    with run_lock(tmp_path / "run"):
        with pytest.raises(RunInUseError, match=holder), run_lock(tmp_path / "run"):
            pass
        with run_lock(tmp_path / "another run"):
            pass


def test_the_directory_is_free_after_the_run_and_after_a_failure(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path):
        raise ZeroDivisionError
    with run_lock(tmp_path):
        pass


def test_a_kill_frees_the_directory_though_a_forked_data_worker_lives_on(tmp_path):
    program = f"""
import os, pathlib, signal, time
from sana_train.run_lock import run_lock
with run_lock(pathlib.Path({str(tmp_path)!r})):
    if not (worker := os.fork()):
        time.sleep(30)
        os._exit(0)
    print(worker, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        worker = int(child.stdout.readline())
        assert child.wait() == -signal.SIGKILL
        with run_lock(tmp_path):
            pass
        os.kill(worker, signal.SIGKILL)

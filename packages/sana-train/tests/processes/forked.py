"""Processes that train together, forked from one that has imported torch already: a second instead of ten each."""

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist

torch.set_num_threads(1)  # threads do not survive a fork


def together(count: int, act: Callable[[int], Any]) -> list[Any]:
    """What `act(rank)` returns, as JSON, in each of `count` processes with a gloo group; None from one that failed.

    When one of them is killed the others are killed too, as it happens to a job on a cluster.
    """
    with tempfile.TemporaryDirectory() as folder:
        running = {_fork(rank, count, act, Path(folder)) for rank in range(count)}
        killed = False
        while running:
            pid, status = os.wait()
            running.discard(pid)
            killed |= os.WIFSIGNALED(status)
            for other in running if killed else ():
                os.kill(other, signal.SIGKILL)
        if not killed:  # else they complain of the one that went
            print(*(path.read_text() for path in Path(folder).glob("*.error")), sep="\n", end="", file=sys.stderr)
        results = [Path(folder, f"{rank}.json") for rank in range(count)]
        return [json.loads(path.read_text()) if path.exists() else None for path in results]


def _fork(rank: int, count: int, act: Callable[[int], Any], folder: Path) -> int:
    if pid := os.fork():
        return pid
    try:
        meeting = f"file://{folder}/meeting"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count, timeout=timedelta(seconds=60))
        result = json.dumps(act(rank))
        (folder / f"{rank}.tmp").write_text(result)
        (folder / f"{rank}.tmp").rename(folder / f"{rank}.json")
        dist.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
    finally:
        os._exit(0)
    return 0

"""Processes that are started again when they are killed, and whose errors come back."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Self

# A worker that is killed as often as this without a single batch done in between will be killed again: out of memory.
PATIENCE = 5

# Seconds that a worker has, once told to leave, to free what the system would otherwise keep, such as semaphores.
GRACE = 10.0

# The exit code of a worker that was told to leave: a shell's for SIGTERM.
LEFT = 128 + signal.SIGTERM


class WorkersKilledError(RuntimeError):
    """Workers are killed time and again; what they finished is kept, and the same call resumes."""


class WorkerProcesses:
    """`count` processes that run `work(*arguments, wanted)`; `wanted()` turns false when this process is gone."""

    def __init__(
        self, work: Callable[..., None], arguments: tuple[Any, ...], *, count: int, devices: Sequence[str] = ()
    ) -> None:
        self._work = work
        self._arguments = arguments
        self._devices = devices
        self._count = count
        self._processes: list[tuple[SpawnProcess, Connection]] = []
        self._kills = 0

    def __enter__(self) -> Self:
        try:
            for place in range(self._count):
                self._processes.append(self._start(place))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process, _ in self._processes:
            process.terminate()
        for process, errors in self._processes:
            process.join(GRACE)
            process.kill()
            process.join()
            errors.close()

    @property
    def all_left(self) -> bool:
        """Whether there were workers and every one has left of itself."""
        return bool(self._processes) and all(process.exitcode == 0 for process, _ in self._processes)

    def mend(self) -> None:
        """Restart workers that were killed; raise the error of one that failed."""
        for place, (process, errors) in enumerate(self._processes):
            ended = not process.is_alive()
            # Read also while it lives: an error larger than the pipe, 64 KB, keeps its sender waiting for a reader. And
            # read after is_alive: what a process sent that had ended by then is in the pipe.
            if error := _received(errors):
                raise error
            if not ended or process.exitcode == 0:
                continue
            if process.exitcode is not None and 0 < process.exitcode != LEFT:  # a signal would be below 0
                raise RuntimeError(
                    f"a worker ended with exit code {process.exitcode} before it could say why; what it printed does. "
                    "Scripts that start workers need `if __name__ == '__main__':` around their own work"
                )
            self._kills += 1
            if self._kills == PATIENCE:
                raise WorkersKilledError(
                    f"workers were killed {PATIENCE} times without finishing a batch (exit code {process.exitcode}): "
                    "they may need more memory than there is. The same call goes on"
                )
            errors.close()
            self._processes[place] = self._start(place)

    def forgive(self) -> None:
        """Count kills from 0 again: a batch was finished."""
        self._kills = 0

    def _start(self, place: int) -> tuple[SpawnProcess, Connection]:
        # Spawned, not forked: a fork cannot use CUDA that its parent has used.
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        device = self._devices[place % len(self._devices)] if self._devices else None
        process = context.Process(target=_run, args=(self._work, self._arguments, device, os.getpid(), sender))
        process.start()
        sender.close()
        return process, receiver


def _run(
    work: Callable[..., None], arguments: tuple[Any, ...], device: str | None, parent: int, errors: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which ends its workers
    signal.signal(signal.SIGTERM, _leave)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        work(*arguments, lambda: os.getppid() == parent)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        try:
            errors.send(error)
        except Exception:  # one that cannot be pickled
            errors.send(RuntimeError("".join(traceback.format_exception(error))))
        raise SystemExit(1) from None


def _leave(*signal_and_frame: object) -> None:
    raise SystemExit(LEFT)


def _received(errors: Connection) -> Exception | None:
    """The error that a process sent; None from one that lives and is well, or was killed, if need be while it sent."""
    try:
        error = errors.recv() if errors.poll() else None
    except (EOFError, OSError):
        return None
    except Exception as failure:  # pickled by one process and unreadable for the other
        return RuntimeError(f"a worker failed with an error that cannot be read here: {failure}")
    assert error is None or isinstance(error, Exception)
    return error

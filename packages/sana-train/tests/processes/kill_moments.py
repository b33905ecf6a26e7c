"""Killing a run at an exact moment: before the n-th time that it does something that Python can see.

What it does are audit events on files of the run directory ("os.rename checkpoints/step-N.tmp", "open metrics.jsonl")
and the events "train.*" that the training run itself raises. A hook sees an event before the thing is done.
"""

import os
import re
import resource
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree"}
PHASES = {
    "start": r"(open checkpoints/step-N/|open lock|os\.rename metrics\.tmp)",
    "step": r"train\.",
    "log": r"open metrics\.jsonl",
    "shard": r"open checkpoints/step-N\.tmp/__\d+_0\.distcp",
    "half a shard": r"open checkpoints/step-N\.tmp/__\d+_0\.distcp",
    "index": r"(open|os\.rename) checkpoints/step-N\.tmp/\.metadata\.tmp",
    "facts": r"open checkpoints/step-N\.tmp/facts\.json",
    "manifest": r"open checkpoints/step-N\.tmp/manifest\.json",
    "commit": r"open checkpoints/step-N\.tmp/COMMIT",
    "rename": r"os\.rename checkpoints/step-N\.tmp$",
    "prune": r"(shutil\.rmtree|os\.remove|os\.rmdir) checkpoints/step-N(/|$)",
    "model folder": r"(os\.rename|os\.mkdir|shutil\.rmtree) model",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """Before the `count`-th event called `event` in one of the processes, by SIGKILL.

    With `after_bytes` the event opens a file, and the kernel kills the process (SIGXFSZ) when the file has that size.
    """

    phase: str
    process: int
    event: str
    count: int
    after_bytes: int | None = None


def moments(phase: str, events: Sequence[Sequence[str]], *, steps: int) -> list[Moment]:
    """The moments of a phase in the first steps of a run, of which `events` gives each process's."""
    found = []
    for process, names in enumerate(events):
        seen: Counter[str] = Counter()
        for name in names:
            seen[name] += 1
            if seen["train.update"] > steps:
                break
            if re.match(PHASES[phase], name):
                found.append(Moment(phase, process, name, seen[name]))
    return found


def watch(run_dir: Path, moment: Moment | None) -> list[str]:
    """List this process's events from now on, and kill it at `moment`."""
    events: list[str] = []
    left = moment.count if moment else 0
    if moment and moment.after_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        name = _name(event, arguments, str(run_dir))
        if name is None:
            return
        events.append(name)
        if moment and name == moment.event:
            left -= 1
            if left == 0:
                _kill(moment)

    sys.addaudithook(hook)
    return events


def _kill(moment: Moment) -> None:
    """At once, or by the kernel in the middle of writing."""
    if moment.after_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (moment.after_bytes, moment.after_bytes))
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def _name(event: str, arguments: tuple[Any, ...], run_dir: str) -> str | None:
    if event.startswith("train."):
        return event
    if event not in FILE_EVENTS or not isinstance(arguments[0], str | os.PathLike):
        return None
    path = os.fspath(arguments[0])
    if not os.path.isabs(path):  # shutil.rmtree names what it removes relative to an open folder
        folder = next((number for number in arguments[1:] if isinstance(number, int) and number > 2), None)
        if event not in ("os.remove", "os.rmdir") or folder is None:
            return None
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    inside = path.removeprefix(run_dir + "/")
    return None if inside == path else f"{event} {re.sub(r'step-[0-9]+', 'step-N', inside)}"

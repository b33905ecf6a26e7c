"""Kill training runs at random moments, resume them, and compare them with a run that nobody killed, bit for bit.

    python soak_kills.py [--runs 20] [--seed 0] [--out results.json]      all of it
    python soak_kills.py --quick                                          four kills

A run is killed twice within its first epoch and then left to its end. Exits with 1 if any bit differs.
"""

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import killable_run
import torch
from forked import together
from kill_moments import PHASES, Moment, moments, watch
from torch import Tensor
from tqdm import tqdm

from sana_train.checkpointing.tensor_files import read_tensors
from sana_train.checkpointing.tensor_index import read_index


@dataclass(frozen=True, slots=True)
class Plan:
    """A run to kill once in each of `phases`."""

    processes: int
    phases: tuple[str, ...]
    background: bool


@dataclass
class Outcome:
    """One run that was killed."""

    processes: int
    background_checkpoints: bool = False
    killed: list[Moment] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The outcome with its verdict."""
        return asdict(self) | {"bit_identical": not self.differences}


class Soak:
    """Runs of one number of processes against their uninterrupted twin."""

    def __init__(self, processes: int, folder: Path) -> None:
        self.processes = processes
        self.folder = folder
        self.data = folder / "data"
        killable_run.write_data(self.data)
        self.twin = folder / "twin"
        self._fresh = self._run(self.twin)
        assert None not in self._fresh, "the run that nobody killed failed"

    @cached_property
    def _resumed(self) -> list[Any]:
        """The events of a run that goes on after a kill."""
        self._run(self.folder / "rehearsal", Moment("step", 0, "train.update", 5))
        return self._run(self.folder / "rehearsal")

    def kill_and_compare(self, name: str, plan: Plan, draw: random.Random) -> Outcome:
        """Kill a new run as planned, let it end, and compare."""
        outcome = Outcome(self.processes, plan.background)
        for phase in plan.phases:
            resumes = any((self.folder / name / "checkpoints").glob("step-*[0-9]"))
            moment = self._moment(phase, draw, self._resumed if resumes else self._fresh)
            outcome.killed.append(moment)
            if self._run(self.folder / name, moment, background=plan.background)[moment.process] is not None:
                outcome.differences.append(f"{moment} did not come")
        logged = len(losses(self.folder / name))
        events = self._run(self.folder / name, background=plan.background)
        if None in events:
            outcome.differences.append("the resumed run failed")
            return outcome
        resumed_at = killable_run.STEPS - events[0].count("train.update")
        if resumed_at < logged - killable_run.CHECKPOINT_EVERY * (2 if plan.background else 1):
            outcome.differences.append(f"resumed at step {resumed_at}, though step {logged} had been reached")
        outcome.differences += differences(self.twin, self.folder / name)
        return outcome

    def _moment(self, phase: str, draw: random.Random, events: list[Any]) -> Moment:
        """A random moment of a phase, early enough for two of them to fall into one epoch."""
        moment = draw.choice(moments(phase, events, steps=killable_run.STEPS_PER_EPOCH // 2))
        if phase == "half a shard":
            size = (last_checkpoint(self.twin) / Path(moment.event).name).stat().st_size
            moment = replace(moment, after_bytes=draw.randrange(1, size))
        return moment

    def _run(self, run_dir: Path, moment: Moment | None = None, *, background: bool = False) -> list[Any]:
        """Start or resume a run; the events of each process that came to its end."""

        def act(rank: int) -> list[str]:
            events = watch(run_dir, moment if moment and moment.process == rank else None)
            killable_run.train(run_dir, self.data, background=background)
            return events

        return together(self.processes, act)

    def elastic(self) -> Outcome:
        """A run under torchrun of which one worker is killed once; torchrun starts both again."""
        run_dir, script = self.folder / "elastic", killable_run.__file__
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "1"]
        ended = subprocess.run([*torchrun, "--nproc-per-node", "2", script, run_dir, self.data], check=False)
        found = [f"torchrun ended with {ended.returncode}"] if ended.returncode else differences(self.twin, run_dir)
        return Outcome(2, killed=[killable_run.ELASTIC], differences=found)


def differences(twin: Path, run_dir: Path) -> list[str]:
    """What differs between two finished runs: tensors, facts, log, model, or the files that there are."""
    found = []
    (a, facts_a), (b, facts_b) = final_state(twin), final_state(run_dir)
    found += [f"tensor {name}" for name in sorted(a.keys() | b.keys()) if not same_bits(a.get(name), b.get(name))]
    found += [f"fact {name}" for name in facts_a if name != "config" and facts_a[name] != facts_b.get(name)]
    if losses(twin) != losses(run_dir):
        found.append("loss log")
    if listing(twin) != listing(run_dir):
        found.append(f"files {sorted(listing(twin) ^ listing(run_dir))}")
    elif (twin / "model/model.safetensors").read_bytes() != (run_dir / "model/model.safetensors").read_bytes():
        found.append("model folder")
    return found


def final_state(run_dir: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors and facts of a run's last checkpoint."""
    path = last_checkpoint(run_dir)
    entries = read_index(path).state_dict_metadata.items()
    state = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries}
    read_tensors(path, state)
    return state, json.loads((path / "facts.json").read_text())


def last_checkpoint(run_dir: Path) -> Path:
    return sorted((run_dir / "checkpoints").iterdir())[-1]


def same_bits(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


def losses(run_dir: Path) -> list[tuple[Any, ...]]:
    log = run_dir / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [(line["step"], line["loss"], line["grad_norm"], line["lr"]) for line in lines]


def listing(run_dir: Path) -> set[str]:
    return {str(path.relative_to(run_dir)) for path in run_dir.rglob("*")}


QUICK = [Plan(1, ("commit", "prune"), background=False), Plan(2, ("shard",), background=True)]


def random_plans(runs: int, draw: random.Random) -> Iterator[Plan]:
    """One and two processes in turn, all phases in random order; every third run saves in the background."""
    phases = _endless(draw)
    for number in range(runs):
        yield Plan(1 + number % 2, (next(phases), next(phases)), background=number % 3 == 2)


def _endless(draw: random.Random) -> Iterator[str]:
    while True:
        yield from draw.sample(list(PHASES), len(PHASES))


def main() -> None:
    """Print the result as JSON, or write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    plans = QUICK if options.quick else list(random_plans(options.runs, draw))
    with tempfile.TemporaryDirectory() as folder:
        soaks = {processes: Soak(processes, Path(folder, str(processes))) for processes in (1, 2)}
        outcomes = [
            soaks[plan.processes].kill_and_compare(f"run-{number}", plan, draw)
            for number, plan in enumerate(tqdm(plans, desc="runs", disable=options.quick))
        ]
        outcomes.append(soaks[2].elastic())
    result = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "seed": options.seed,
        "kills": sum(len(outcome.killed) for outcome in outcomes),
        "bit_identical": not any(outcome.differences for outcome in outcomes),
        "runs": [outcome.as_json() for outcome in outcomes],
    }
    text = json.dumps(result, indent=1)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    else:
        print(text)
    sys.exit(not result["bit_identical"])


if __name__ == "__main__":
    main()

"""What several processes see of checkpoints and of a run's lock, as JSON: `python checkpoint_scenarios.py FOLDER`."""

import json
import os
import resource
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from forked import together
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from sana_train.checkpointing.checkpoint import CheckpointError, Checkpoints
from sana_train.run_lock import RunInUseError, run_lock

SIZES = {"even": (4, 3), "uneven": (5, 3), "fewer rows than processes": (1, 7), "vector": (3,)}
DTYPES = (torch.float32, torch.bfloat16, torch.uint8)


def full_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = {
        f"{name} {dtype}": (torch.randn(size, generator=generator) * 100).to(dtype)
        for name, size in SIZES.items()
        for dtype in DTYPES
    }
    return values | {"scalar": torch.tensor(7.5), "replicated": torch.randn(3, 2, generator=generator)}


def sharded(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """DTensors split along rows; one replicated DTensor and one plain tensor remain."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    rows = {name: distribute_tensor(value, mesh, [Shard(0)]) for name, value in state.items() if "torch." in name}
    return rows | {"scalar": state["scalar"], "replicated": distribute_tensor(state["replicated"], mesh, [Replicate()])}


def gathered(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def load_again(folder: Path) -> dict[str, bool]:
    """Whether each tensor of the newest checkpoint has the bits that were saved."""
    checkpoints = Checkpoints(folder, keep=1)
    blank = sharded({name: torch.zeros_like(value) for name, value in full_state().items()})
    checkpoints.load(checkpoints.newest(), blank)
    return {name: torch.equal(gathered(blank[name]), value) for name, value in full_state().items()}


def reshard(folder: Path) -> dict[str, list]:
    """Saved by two processes, at once and in the background; loaded by another number."""
    for kind in ("foreground", "background"):
        together(2, lambda rank, kind=kind: save(folder / kind, background=kind == "background"))
    return {
        f"{kind}, {count}": together(count, lambda rank, kind=kind: load_again(folder / kind))
        for kind, count in (("foreground", 1), ("foreground", 2), ("foreground", 3), ("background", 3))
    }


def save(folder: Path, *, background: bool) -> None:
    checkpoints = Checkpoints(folder, keep=1, background=background)
    state = sharded(full_state())
    checkpoints.save(1, state, {})
    if background:
        for value in state.values():
            value.zero_()  # training goes on
    checkpoints.wait()


def full_disk(folder: Path) -> dict[str, list]:
    """The second save fails in one of two processes, for a limit on the size of its files."""
    return {
        f"process {rank}": together(2, lambda mine, full=rank: fill_disk(folder / str(full), is_full=mine == full))
        for rank in (0, 1)
    }


def fill_disk(folder: Path, *, is_full: bool) -> dict[str, object]:
    checkpoints = Checkpoints(folder, keep=1)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    state = {"weight": distribute_tensor(torch.ones(100_000), mesh, [Shard(0)])}
    checkpoints.save(1, state, {})
    if is_full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    try:
        checkpoints.save(2, state, {})
    except CheckpointError as error:
        message = str(error)
    dist.barrier()  # the first process removes what both have written
    left = sorted(path.name for path in folder.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    dist.barrier()
    checkpoints.save(3, state, {})
    return {"error": message, "left": left, "next": checkpoints.newest().step}


def other_depth(folder: Path) -> list:
    """Two processes load into a model of another depth."""

    def load(rank: int) -> str:
        checkpoints = Checkpoints(folder, keep=1)
        state = {f"model.blocks.{i}.weight": torch.ones(2) for i in range(12)}
        checkpoints.save(1, state, {})
        try:
            checkpoints.load(checkpoints.newest(), dict(list(state.items())[:8]))
        except CheckpointError as error:
            return str(error)
        return ""

    return together(2, load)


def locked_run(folder: Path) -> list:
    """Two processes ask for a run directory that this one holds, then for one that is free."""

    def lock(rank: int) -> list[str]:
        said = []
        for run_dir in (folder / "held", folder / "free"):
            try:
                with run_lock(run_dir):
                    dist.barrier()
                    said.append("entered")
            except RunInUseError as error:
                said.append(str(error))
        return said

    with run_lock(folder / "held"):
        return [os.getpid(), together(2, lock)]


if __name__ == "__main__":
    root = Path(sys.argv[1])
    scenarios = (reshard, full_disk, other_depth, locked_run)
    print(json.dumps({scenario.__name__: scenario(root / scenario.__name__) for scenario in scenarios}))

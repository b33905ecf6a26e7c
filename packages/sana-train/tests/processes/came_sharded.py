"""CAME8bit over 1 to 4 processes (FSDP2), as one JSON object: run as `python came_sharded.py FOLDER`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from forked import together
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from sana_train.came import CAME8bit

DTYPES = (torch.float32, torch.bfloat16)
STEPS = 4
MESHES = {1: [(1,)], 2: [(2,)], 3: [(3,)], 4: [(4,), (2, 2)]}


class Uneven(nn.Module):
    """Every kind of tensor, of sizes that no number of processes divides; one has fewer rows than processes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = nn.Linear(67, 37, bias=False), nn.Linear(67, 29, bias=False)
        self.point = nn.Conv2d(33, 71, 1)
        self.depthwise = nn.Conv2d(13, 13, 3, groups=13)
        self.narrow = nn.Linear(2000, 3)


def main() -> None:
    folder = Path(sys.argv[1])
    results = {}
    for dtype in DTYPES:
        for count in (2, 1, 3, 4):
            results[f"{dtype} {count}"] = together(count, lambda rank, dtype=dtype: act(folder / str(dtype), dtype))
    print(json.dumps(results))


def act(folder: Path, dtype: torch.dtype) -> dict[str, dict[str, float] | list[str] | str]:
    """What one process finds."""
    meshes = [
        init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards")[-len(shape) :])
        for shape in MESHES[dist.get_world_size()]
    ]
    found = [compare(folder, dtype, mesh) for mesh in meshes]
    return found[0] | {"off by": {name: max(f["off by"][name] for f in found) for name in found[0]["off by"]}}


def compare(folder: Path, dtype: torch.dtype, mesh: DeviceMesh) -> dict[str, dict[str, float] | list[str] | str]:
    """Sharded steps against those of one process; replicated over the mesh's first dimension if it has two."""
    whole, sharded = Uneven().to(dtype), fully_shard(Uneven().to(dtype), mesh=mesh)
    alone, together = make(whole), make(sharded)
    for step in range(STEPS):
        backward(whole, step)
        backward(sharded, step)
        alone.step()
        together.step()
    found = {"off by": distances(contents(whole, alone), contents(sharded, together))}
    if dist.get_world_size() == 2:  # these two leave a checkpoint that any number then reads
        save(folder, sharded, together)
    found["not as saved"] = load_again(folder, dtype, mesh)
    found["flat is refused"] = refusal(lambda: make(sharded, layout="flat"))
    found["whole state is refused"] = refusal(lambda: together.load_state_dict(alone.state_dict()))
    found["sharded state is refused"] = refusal(lambda: alone.load_state_dict(together.state_dict()))
    found["not as in a full state"] = [name for ways in (False, True) for name in through_full_state(sharded, ways)]
    return found


def make(model: nn.Module, **options: object) -> CAME8bit:
    """One stack of joined matrices is above the threshold, though none of its members is."""
    joined = [(model.query.weight, model.key.weight)]
    fixed = {"block_size": 500, "min_8bit_size": 37 * 67, "joined": joined, "stochastic_rounding": True}
    return CAME8bit(model.parameters(), 1e-3, **fixed | {"weight_decay": 0.1} | options)


def backward(model: nn.Module, step: int) -> None:
    """Give the same gradients to a model, sharded or not; in the last step, replicated beside sharded weights."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        if isinstance(parameter, DTensor):
            replicated = [Replicate()] * parameter.device_mesh.ndim
            placements = replicated if step == STEPS - 1 else parameter.placements
            grad = distribute_tensor(grad, parameter.device_mesh, placements)
        parameter.grad = grad


def contents(model: nn.Module, optimizer: CAME8bit) -> dict[str, Tensor]:
    """The weights, and the state by the weights' names."""
    tensors = dict(model.named_parameters())
    for name, parameter in model.named_parameters():
        tensors |= {f"{name} {key}": value for key, value in optimizer.state[parameter].items()}
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in tensors.items()
    }


def distances(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """How far apart, relative to the values' norm."""
    pairs = {name: (value.double(), other[name].double()) for name, value in one.items()}
    return {name: ((a - b).norm() / a.norm().clamp(min=1e-30)).item() for name, (a, b) in pairs.items()}


def save(folder: Path, model: nn.Module, optimizer: CAME8bit) -> None:
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)
    saved = contents(model, optimizer)
    if dist.get_rank() == 0:
        torch.save(saved, folder / "saved.pt")
    dist.barrier()


def load_again(folder: Path, dtype: torch.dtype, mesh: DeviceMesh) -> list[str]:
    """The names of tensors that differ in a bit, or in their type, from those saved."""
    model = fully_shard(Uneven().to(dtype), mesh=mesh)
    optimizer = make(model, weight_decay=0.7)
    optimizer.init_state()
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    saved, now = torch.load(folder / "saved.pt", weights_only=True), contents(model, optimizer)
    assert saved.keys() == now.keys()
    return [name for name in saved if saved[name].dtype != now[name].dtype or not torch.equal(saved[name], now[name])]


def through_full_state(model: nn.Module, broadcast: bool) -> list[str]:
    """The names of tensors that differ in a bit once the whole state, of rank 0 or of all, is loaded into shards."""
    different = []
    for joined in ({}, {"joined": []}):  # torch loses the option where the list is empty
        one, other = make(model, **joined), make(model, **joined, weight_decay=0.7)
        one.step()
        other.init_state()
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=broadcast)
        state = get_optimizer_state_dict(model, one, options=StateDictOptions(full_state_dict=True))
        state = {} if broadcast and dist.get_rank() else state
        set_optimizer_state_dict(model, other, state, options=options)
        assert other.param_groups[0]["weight_decay"] == 0.1
        wanted, now = contents(model, one), contents(model, other)
        different += [name for name in wanted if not torch.equal(wanted[name], now[name])]
    return different


def refusal(act: Callable[[], object]) -> str:
    try:
        act()
    except ValueError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()

"""Parameters divided by rows over processes (FSDP2): local tensors, DTensors around them, and sums over all shards."""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard


@dataclass(frozen=True)
class Shards:
    """The dimensions of a device mesh over which a tensor's rows are divided."""

    mesh: DeviceMesh
    dims: tuple[int, ...]

    def add_up(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sums of float32 `tensors` over all shards, by one all-reduce for each dimension of the mesh."""
        if not tensors:
            return []
        packed = torch.cat([tensor.reshape(-1) for tensor in tensors])
        for dim in self.dims:
            dist.all_reduce(packed, group=self.mesh.get_group(dim))
        sums = torch.split(packed, [tensor.numel() for tensor in tensors])
        return [total.view(tensor.shape) for total, tensor in zip(sums, tensors, strict=True)]


def shards_of(parameter: Tensor) -> Shards | None:
    """Over what `parameter` is divided, or None where every process has all of it.

    Raises:
        ValueError: it is divided along another dimension than the first, or is a sum yet to be made.
    """
    if not isinstance(parameter, DTensor):
        return None
    mesh, placements = parameter.device_mesh, parameter.placements
    if not all(isinstance(p, Replicate) or (isinstance(p, Shard) and p.dim == 0) for p in placements):
        raise ValueError(
            f"a parameter is placed as {placements}: CAME's state follows replicated parameters and those divided "
            "along their first dimension (Shard(0), what fully_shard does)"
        )
    dims = tuple(dim for dim, p in enumerate(placements) if isinstance(p, Shard) and mesh.size(dim) > 1)
    return Shards(mesh, dims) if dims else None


def local(tensor: Tensor) -> Tensor:
    """What this process holds of `tensor`, in the same memory; to be written to, gradients must be off."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def zeros_beside(parameter: Tensor, shape: tuple[int, ...], dtype: torch.dtype, *, divided: bool) -> Tensor:
    """Zeros of a global `shape` for the state of `parameter`: divided by rows as it is, or whole in every process."""
    if not isinstance(parameter, DTensor):
        return torch.zeros(shape, dtype=dtype, device=parameter.device)
    mesh = parameter.device_mesh
    mine = local(parameter)
    zeros = torch.zeros((mine.shape[0], *shape[1:]) if divided else shape, dtype=dtype, device=mine.device)
    placements = parameter.placements if divided else [Replicate()] * mesh.ndim
    stride = torch.empty(shape, device="meta").stride()
    wrapped = DTensor.from_local(zeros, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)
    return cast(Tensor, wrapped)


def first_row(parameter: Tensor) -> int:
    """The number, in the whole tensor, of the first row that this process holds."""
    first, rows = 0, parameter.shape[0] if parameter.ndim else 1
    if isinstance(parameter, DTensor):
        for dim, placement in enumerate(parameter.placements):
            if isinstance(placement, Shard):
                share = math.ceil(rows / parameter.device_mesh.size(dim))
                start = min(parameter.device_mesh.get_local_rank(dim) * share, rows)
                first, rows = first + start, min(share, rows - start)
    return first

"""The processes of a run: one, or those that torchrun started, on one machine or many."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from sana_train.rendezvous import fresh_store

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def process_group(*, timeout: timedelta = timedelta(minutes=10)) -> Iterator[None]:
    """Join the processes that torchrun started for as long as the context lasts; without torchrun, do nothing.

    Each process takes the GPU of its LOCAL_RANK, where there are GPUs (NCCL), else the CPU (gloo).

    Raises:
        ConnectionError: the processes do not meet within `timeout`.
    """
    if "RANK" not in os.environ:
        yield
        return
    if missing := [name for name in _NEEDED if name not in os.environ]:
        raise ConnectionError(f"RANK is set and {', '.join(missing)} not: start the processes with torchrun")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, number, count = next(rendezvous("env://", timeout=timeout))
        store = fresh_store(store, rank=number, count=count, timeout=timeout)
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=timeout)
    except (RuntimeError, ValueError, ConnectionError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConnectionError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} did not meet the others at {place} within "
            f"{timeout} ({str(error).splitlines()[0]}): is every node started, with the same --rdzv-endpoint, and is "
            "the port open?"
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 being the one that writes files and shows progress."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """The sum of `values` over all processes."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def share_first(tensors: Iterable[Tensor]) -> None:
    """Give all processes the first one's values of `tensors`, in place."""
    if dist.is_initialized():
        dense = [(tensor.data, tensor.data.contiguous()) for tensor in tensors]  # gloo takes no gaps into account
        for work in [dist.broadcast(copy, src=0, async_op=True) for _, copy in dense]:
            work.wait()
        for data, copy in dense:
            data.copy_(copy)


def summing_dtype(device: torch.device) -> torch.dtype:
    """What sums of many numbers are kept in on `device`: float64, which MPS does not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def share_of(batch_size: int, parts: int, *, process: int, processes: int) -> range:
    """The slots of a step's batch that one of several processes trains on, in `parts` micro-batches of equal size.

    Raises:
        ValueError: the batch cannot be divided so.
    """
    if batch_size == 0 or batch_size % (processes * parts):
        raise ValueError(
            f"a batch of {batch_size} samples cannot be divided among {processes} processes with {parts} "
            f"micro-batches each: make it a multiple of {processes * parts}"
        )
    size = batch_size // processes
    return range(process * size, (process + 1) * size)


def gathered(items: list[str]) -> list[str]:
    """The items of all processes, in their order."""
    if not dist.is_initialized():
        return items
    parts: list[list[str]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]

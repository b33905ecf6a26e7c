"""Rendezvous after a restart: torchrun's store still holds the addresses of dead workers.

Since PyTorch 2.5 the store of torchrun's agent lives through restarts (pytorch/pytorch#135712), and gloo and NCCL find
those addresses there. So the first process names each rendezvous, and the others learn the name of theirs.
"""

import time
from datetime import timedelta
from uuid import uuid4

from torch.distributed.distributed_c10d import PrefixStore, Store


def fresh_store(store: Store, *, rank: int, count: int, timeout: timedelta) -> Store:
    """The part of `store` for these `count` processes, which nobody has written to before.

    Raises:
        ConnectionError: not all of them have come within `timeout`.
    """
    store = PrefixStore("rendezvous", store)
    me = uuid4().hex
    deadline = time.monotonic() + timeout.total_seconds()
    if rank == 0:
        for other in range(1, count):
            _tell(store, me, other, deadline)
        return PrefixStore(me, store)
    store.set(f"rank {rank}", me)
    name = _read(store, f"name for {me}", deadline)
    store.set(f"{me} knows {name}", "")
    return PrefixStore(name, store)


def _tell(store: Store, name: str, rank: int, deadline: float) -> None:
    """Tell `rank` the name; until it has answered, the process noted under its number may be dead."""
    while True:
        who = _read(store, f"rank {rank}", deadline)
        store.set(f"name for {who}", name)
        for _ in range(20):
            if store.check([f"{who} knows {name}"]):
                return
            _wait(deadline)


def _read(store: Store, key: str, deadline: float) -> str:
    while not store.check([key]):
        _wait(deadline)
    return bytes(store.get(key)).decode()


def _wait(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise ConnectionError("not all processes have come")
    time.sleep(0.02)

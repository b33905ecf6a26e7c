from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from sana_train.rendezvous import fresh_store

SOON = timedelta(seconds=20)


def rendezvous(store, count):
    """What the other processes read where the first one has written."""

    def act(rank):
        mine = fresh_store(store, rank=rank, count=count, timeout=SOON)
        assert not mine.check(["address"]) or rank > 0  # nothing is there from an earlier rendezvous
        if rank == 0:
            mine.set("address", "here")
        return mine.get("address")

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(act, range(count)))


def test_processes_meet_again_on_the_same_store():
    store = HashStore()
    for _ in range(3):
        assert rendezvous(store, 3) == [b"here"] * 3


def test_a_process_that_died_before_it_was_told_is_not_waited_for():
    store = HashStore()
    with pytest.raises(ConnectionError):
        fresh_store(store, rank=1, count=2, timeout=timedelta(seconds=0))
    assert rendezvous(store, 2) == [b"here"] * 2


def test_processes_that_do_not_come_are_an_error():
    with pytest.raises(ConnectionError, match="not all processes have come"):
        fresh_store(HashStore(), rank=0, count=2, timeout=timedelta(seconds=0.1))

import multiprocessing

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from sana_train import TrainConfig
from sana_train.data import LatentShards, write_shard
from sana_train.upcoming import share_at, upcoming


def whole(step):
    return {"latents": torch.arange(4.0) + 10 * step, "key": [f"{step}-{slot}" for slot in range(4)]}


class Divided:
    batch_size = 4

    def __call__(self, step):
        raise AssertionError("the whole batch is not needed")

    def part(self, step, slots):
        return {name: entry[slots.start : slots.stop] for name, entry in whole(step).items()}


@pytest.mark.parametrize("batches", [whole, Divided()])
def test_micro_batches_carry_their_own_slots(batches):
    share = share_at(batches, 3, TrainConfig(run_dir="", steps=9, accumulate=2), process=0, processes=1)
    micro = list(share.micro_batches())
    assert [slots for slots, _ in micro] == [range(2), range(2, 4)]
    assert [batch["key"] for _, batch in micro] == [["3-0", "3-1"], ["3-2", "3-3"]]
    assert micro[1][1]["latents"].tolist() == [32, 33]
    assert share.keys == ["3-0", "3-1", "3-2", "3-3"]


@pytest.mark.parametrize(("settings", "kept"), [({}, [32]), ({"accumulate": 2}, [16, 32]), ({"compile": True}, [60])])
def test_each_micro_batch_has_captions_as_long_as_its_own_longest(settings, kept):
    def padded(step):
        mask = torch.arange(60) < torch.tensor([[3], [9], [2], [21]])
        return whole(step) | {"caption": torch.ones(4, 60, 2), "caption_mask": mask}

    share = share_at(padded, 0, TrainConfig(run_dir="", steps=9, **settings), process=0, processes=1)
    assert [batch["caption"].shape[1] for batch in share.batches] == kept
    assert [batch["caption_mask"].shape[1] for batch in share.batches] == kept


@pytest.mark.gpu
def test_shares_come_in_pinned_memory_where_there_is_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    (share,) = upcoming(whole, [2], TrainConfig(run_dir="", steps=9))
    assert share.batches[0]["latents"].is_pinned()
    assert share.pin_memory().keys == ["2-0", "2-1", "2-2", "2-3"]


@pytest.mark.parametrize("workers", [0, 1])
def test_shares_come_in_the_order_of_the_steps(workers):
    config = TrainConfig(run_dir="", steps=9, workers=workers)
    shares = list(upcoming(whole, [2, 5, 7], config))
    assert [share.step for share in shares] == [2, 5, 7]
    assert shares[1].keys == ["5-0", "5-1", "5-2", "5-3"]


@pytest.fixture
def second_of_two():
    """A process group in which this process is the second of two; the first does not exist."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.fixture(params=["fork", "spawn"])
def start_method(request):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("second_of_two", "start_method")
def test_workers_take_the_share_of_their_process_however_they_start(tmp_path):
    latents, caption, mask = torch.arange(8.0).view(8, 1, 1, 1), torch.ones(8, 2, 3), torch.ones(8, 2)
    keys = [str(number) for number in range(8)]
    write_shard(tmp_path / "a.safetensors", latents, caption, mask, keys=keys, scaling_factor=1.0)
    shards = LatentShards(tmp_path, batch_size=8)  # of a module that a spawned worker can import
    (share,) = upcoming(shards, [3], TrainConfig(run_dir="", steps=9, workers=1))
    assert share.slots == range(4, 8)
    assert share.keys == shards(3)["key"][4:]

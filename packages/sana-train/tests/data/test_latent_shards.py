import math
import pickle
import shutil
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from sana_train.data import latent_shards
from sana_train.data.caption_sampler import CaptionSampler
from sana_train.data.latent_shards import LatentShards
from sana_train.data.shard_files import write_shard


def write(path, samples, *, size=(2, 2), channels=1, tokens=3, scaling_factor=0.5, dtype=torch.float16):
    """Every latent of a sample is its place in the shard, and its key says so."""
    latents = torch.arange(samples, dtype=dtype).view(-1, 1, 1, 1).expand(-1, channels, *size)
    keys = [f"{path.stem}/{number}" for number in range(samples)]
    caption = torch.zeros(samples, tokens, 4, dtype=torch.bfloat16)
    mask = torch.ones(samples, tokens, dtype=torch.bool)
    write_shard(path, latents, caption, mask, keys=keys, scaling_factor=scaling_factor)


@pytest.fixture
def folder(tmp_path):
    """Two shards of 2x2 cells with 5 and 4 samples and one of 2x3 with 7."""
    write(tmp_path / "a.safetensors", 5)
    write(tmp_path / "b.safetensors", 7, size=(2, 3))
    write(tmp_path / "c.safetensors", 4)
    return tmp_path


def keys(shards, epoch=0):
    first = epoch * shards.steps_per_epoch
    return [key for step in range(first, first + shards.steps_per_epoch) for key in shards(step)["key"]]


def test_a_batch_is_what_the_model_takes(folder):
    shards = LatentShards(folder, batch_size=3)
    batch = shards(0)
    assert batch["latents"].dtype == torch.float32
    assert batch["caption"].shape == (3, 3, 4)
    assert batch["caption_mask"].dtype == torch.bool
    numbers = torch.tensor([float(key.split("/")[1]) for key in batch["key"]])
    assert torch.equal(batch["latents"].amax((1, 2, 3)), 0.5 * numbers)
    assert (shards.samples, shards.caption_shape, shards.latent_channels) == (16, (3, 4), 1)


def test_a_batch_never_mixes_sizes(folder):
    shards = LatentShards(folder, batch_size=3)
    sizes = [tuple(shards(step)["latents"].shape[2:]) for step in range(shards.steps_per_epoch)]
    assert Counter(sizes) == {(2, 2): 3, (2, 3): 2}
    assert shards.sizes == [(2, 2), (2, 3)]


def test_few_shards_are_open_at_a_time(folder, monkeypatch):
    expected = keys(LatentShards(folder, batch_size=3), epoch=2)
    monkeypatch.setattr(latent_shards, "MAX_OPEN", 1)
    shards = LatentShards(folder, batch_size=3)
    assert keys(shards, epoch=2) == expected
    assert len(shards._open) == 1
    monkeypatch.setattr(latent_shards, "MAX_OPEN", 2)
    first = shards._shard(0)
    shards._shard(1)
    assert shards._shard(0) is first
    shards._shard(2)
    assert list(shards._open) == [0, 2]  # the one that was used longest ago is closed


def test_an_epoch_has_a_sample_at_most_once_and_the_next_has_another_order(folder):
    shards = LatentShards(folder, batch_size=3)
    first, second = keys(shards), keys(shards, epoch=1)
    assert max(Counter(first).values()) == 1
    assert first != second
    seen = {key for epoch in range(20) for key in keys(shards, epoch)}
    assert len(seen) == 16  # what one epoch leaves over comes in another


def test_the_order_is_a_function_of_seed_and_epoch_alone(folder):
    shards, again = LatentShards(folder, batch_size=3, seed=4), LatentShards(folder, batch_size=3, seed=4)
    again(99)
    assert keys(shards, epoch=2) == keys(again, epoch=2)
    assert keys(shards) != keys(LatentShards(folder, batch_size=3, seed=5))


def test_a_part_holds_just_its_slots(folder):
    shards = LatentShards(folder, batch_size=4)
    whole, part = shards(1), shards.part(1, range(1, 3))
    assert part["key"] == whole["key"][1:3]
    assert torch.equal(part["latents"], whole["latents"][1:3])
    assert len(part["caption"]) == len(part["caption_mask"]) == 2


def test_worker_processes_read_the_same(folder):
    shards = LatentShards(folder, batch_size=3)
    expected = [shards(step)["key"] for step in range(4)]  # files are open here when the workers start
    loader = DataLoader(Steps(shards), batch_size=None, num_workers=1)
    assert [batch["key"] for batch in loader] == expected
    assert pickle.loads(pickle.dumps(shards))(3)["key"] == expected[3]  # as it reaches a spawned worker


class Steps(torch.utils.data.Dataset):
    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return 4

    def __getitem__(self, step):
        return self.batches(step)


def test_files_are_read_in_the_process_that_asks_for_a_batch(folder):
    shards = LatentShards(folder, batch_size=3)
    for path in folder.iterdir():
        path.rename(path.with_suffix(".away"))
    with pytest.raises(FileNotFoundError, match=r"\.safetensors"):
        shards(0)


def test_a_folder_without_shards_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        LatentShards(tmp_path / "nowhere", batch_size=1)
    with pytest.raises(FileNotFoundError, match=r"holds no shard \(\*\.safetensors\): write some"):
        LatentShards(tmp_path, batch_size=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, r"latent channels 1 and d\.safetensors 2"),
        ({"tokens": 4}, r"caption tokens and channels \(3, 4\) and d\.safetensors \(4, 4\)"),
        ({"scaling_factor": 0.25}, r"scaling_factor 0\.5 and d\.safetensors 0\.25"),
    ],
)
def test_shards_that_do_not_go_together_are_named(folder, change, message):
    write(folder / "d.safetensors", 2, **change)
    with pytest.raises(ValueError, match=message):
        LatentShards(folder, batch_size=1)


def test_a_batch_larger_than_the_data_is_refused(folder):
    with pytest.raises(ValueError, match=r"batch_size is 10, but .* has at most 9 samples of one size"):
        LatentShards(folder, batch_size=10)
    with pytest.raises(ValueError, match="batch_size is 0"):
        LatentShards(folder, batch_size=0)


def test_samples_that_are_never_used_are_warned_of(folder):
    with pytest.warns(UserWarning, match="the 7 samples of 2x3 do not fill a batch of 8 and are never used"):
        assert LatentShards(folder, batch_size=8).steps_per_epoch == 1


def test_a_leftover_of_a_killed_writer_is_no_shard(folder):
    shutil.copy(folder / "a.safetensors", folder / ".x.safetensors.7.tmp")
    assert LatentShards(folder, batch_size=3).samples == 16


def write_captions(path, *, scored, counts=(1, 3, 2, 3)):
    """Caption j of sample i holds 10 i + j, and scores j."""
    values = [10.0 * sample + caption for sample, count in enumerate(counts) for caption in range(count)]
    caption = torch.tensor(values).view(-1, 1, 1).expand(-1, 3, 4)
    scores = [value % 10 for value in values] if scored else None
    write_shard(
        path,
        torch.zeros(len(counts), 1, 2, 2),
        caption,
        torch.ones(len(values), 3),
        keys=[str(sample) for sample in range(len(counts))],
        scaling_factor=0.5,
        captions_of=counts,
        caption_scores=scores,
    )


def drawn(shards, epochs):
    steps = range(epochs * shards.steps_per_epoch)
    return [
        (int(key), int(x)) for b in map(shards, steps) for key, x in zip(b["key"], b["caption"][:, 0, 0], strict=True)
    ]


def test_one_of_several_captions_is_drawn_anew_in_each_epoch(tmp_path):
    write_captions(tmp_path / "a.safetensors", scored=False)
    found = drawn(LatentShards(tmp_path, batch_size=2, captions=CaptionSampler(tau=math.inf)), 40)
    assert set(found) == {(i, 10 * i + j) for i, count in enumerate((1, 3, 2, 3)) for j in range(count)}
    assert found == drawn(LatentShards(tmp_path, batch_size=2, captions=CaptionSampler(tau=math.inf)), 40)


def test_the_best_caption_is_drawn_where_the_temperature_is_low(tmp_path):
    write_captions(tmp_path / "a.safetensors", scored=True)
    found = drawn(LatentShards(tmp_path, batch_size=2), 10)  # one point of the score is e^10 at tau 0.1
    assert set(found) == {(0, 0), (1, 12), (2, 21), (3, 32)}


def test_several_captions_without_scores_are_refused(tmp_path):
    write_captions(tmp_path / "a.safetensors", scored=False)
    with pytest.raises(ValueError, match="has 9 captions for 4 samples and no scores to draw them by: score"):
        LatentShards(tmp_path, batch_size=2)


@pytest.mark.parametrize("counts", [(1, 3, 2), (1, 3, 2, 4), (0, 4, 2, 3)])
def test_captions_that_are_not_shared_out_are_refused(tmp_path, counts):
    with pytest.raises(ValueError, match=r"caption_start|share its 9 captions out"):
        write_shard(
            tmp_path / "a.safetensors",
            torch.zeros(4, 1, 2, 2),
            torch.zeros(9, 3, 4),
            torch.ones(9, 3),
            keys=list("abcd"),
            scaling_factor=0.5,
            captions_of=counts,
        )
    assert not list(tmp_path.iterdir())


def test_a_shard_that_is_rewritten_during_a_run_is_named(folder):
    shards = LatentShards(folder, batch_size=4)
    write(folder / "a.safetensors", 2)
    with pytest.raises(ValueError, match=r"a.safetensors has been rewritten .* \(2 samples, .*; it had 5"):
        keys(shards)

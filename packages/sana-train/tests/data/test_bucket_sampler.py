import pickle

import pytest
import torch

from sana_train.data.bucket_sampler import BucketSampler


@pytest.fixture
def groups():
    return {(2, 2): torch.arange(10), (2, 3): torch.arange(10, 17)}


def test_the_cursor_is_one_integer_and_any_order_of_asking_gives_the_same(groups):
    forwards, backwards = BucketSampler(groups, batch_size=3), BucketSampler(groups, batch_size=3)
    asked = {step: backwards.batch(step).tolist() for step in reversed(range(30))}
    assert [forwards.batch(step).tolist() for step in range(30)] == [asked[step] for step in range(30)]
    elsewhere = pickle.loads(pickle.dumps(forwards))
    assert elsewhere.batch(17).tolist() == asked[17]


def test_every_batch_is_of_one_size_and_an_epoch_repeats_nothing(groups):
    sampler = BucketSampler(groups, batch_size=3)
    batches = [sampler.batch(step).tolist() for step in range(sampler.steps_per_epoch)]
    assert len(batches) == 3 + 2
    assert all(len({sample < 10 for sample in batch}) == 1 for batch in batches)
    samples = [sample for batch in batches for sample in batch]
    assert len(set(samples)) == len(samples)
    assert (sampler.epoch(4), sampler.epoch(5)) == (0, 1)


def test_epochs_and_seeds_have_their_own_orders(groups):
    orders = {
        tuple(tuple(BucketSampler(groups, batch_size=3, seed=seed).batch(first + step).tolist()) for step in range(5))
        for seed in (0, 1)
        for first in (0, 5)
    }
    assert len(orders) == 4


def test_what_cannot_be_dealt_is_said(groups):
    with pytest.raises(ValueError, match="the data has no samples: add some"):
        BucketSampler({}, batch_size=1)
    with pytest.raises(ValueError, match="batch_size is 11, but here has at most 10 samples of one size"):
        BucketSampler(groups, batch_size=11, where="here")
    with pytest.raises(ValueError, match="batch_size is 0"):
        BucketSampler(groups, batch_size=0)
    with pytest.warns(UserWarning, match="the 7 samples of 2x3 do not fill a batch of 8 and are never used"):
        BucketSampler(groups, batch_size=8)

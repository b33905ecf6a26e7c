import itertools
import pickle

import pytest
import torch

from sana_judge.training import Example, ExampleBatches


@pytest.fixture
def make(judge, batcher, picture):
    """Batches of 22 examples in groups of seven, seven and eight."""
    examples = [
        Example(
            prompt=f"prompt {n}",
            image=picture(f"{n}.png", color=(n, 0, 0)),
            label=n % 2,
            group="abc"[min(n // 7, 2)],
            negatives=("not one", "not two") if n == 3 else (),
        )
        for n in range(22)
    ]
    return lambda **options: ExampleBatches(
        examples, batcher, judge.model.config, **({"batch_size": 4, "max_tiles": 1} | options)
    )


def names(batches, step):
    return [key.rsplit("/", 1)[-1] for key in batches(step)["key"]]


def test_an_epoch_takes_every_example_once_and_leaves_out_a_rest(make):
    batches = make()
    seen = [name for step in range(5) for name in names(batches, step)]
    assert len(seen) == len(set(seen)) == 20
    assert sorted(batches.order(0)) == sorted(batches.order(1)) == list(range(22))
    assert batches.order(0) != batches.order(1)


def test_the_order_is_a_function_of_seed_and_epoch(make):
    batches, again = make(seed=3), make(seed=3)
    again(17)
    assert torch.equal(batches(6)["tokens"], again(6)["tokens"])
    assert make(seed=3).order(5) == batches.order(5) != make(seed=4).order(5)


def test_examples_of_a_group_come_together(make):
    batches = make(together=4)
    order = batches.order(0)
    groups = [batches.examples[number].group for number in order]
    runs = 1 + sum(one != two for one, two in itertools.pairwise(groups))
    assert runs <= 6  # two runs of each group; in any order of single ones 15 are to be expected
    assert len({repr(make(together=1).order(epoch)) for epoch in range(3)}) == 3


def test_a_part_is_what_the_whole_has_there(make):
    batches = make()
    whole, part = batches(2), batches.part(2, range(1, 3))
    assert part["key"] == whole["key"][1:3]
    assert torch.equal(part["tiles"], whole["tiles"][1:3])


def test_negatives_are_asked_beside_the_prompt_and_change_with_the_epoch(make, judge):
    batches = make(batch_size=22)
    place = batches(0)["key"].index(str(batches.examples[3].image))
    assert batches(0)["labels"][place].tolist() == [1, 0]
    asked = {batches._asked(3, epoch)[1].prompt for epoch in range(12)}
    assert asked == {"not one", "not two"}


def test_workers_can_be_given_the_batches(make):
    batches = make()
    batches(0)
    assert pickle.loads(pickle.dumps(batches))(1)["key"] == batches(1)["key"]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 23}, {"together": 0}])
def test_impossible_sizes_are_refused(make, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
        make(**options)

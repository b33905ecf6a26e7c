import math

import pytest
import torch
from torch import nn

from sana_scale.depth import (
    block_importance,
    evenly_spaced,
    iterative_removal_order,
    leave_one_out,
    random_blocks,
    removal_order,
    without_window,
)

SCORES = [0.9, 0.1, 0.3, 0.2, 0.8]


class Plane(nn.Module):
    """Turns tokens in a plane of its own, so that no block changes what another one does."""

    def __init__(self, index, angle):
        super().__init__()
        self.plane, self.angle = slice(2 * index, 2 * index + 2), angle

    def forward(self, x):
        c, s = math.cos(self.angle), math.sin(self.angle)
        turned = x.clone()
        turned[..., self.plane] = x[..., self.plane] @ torch.tensor([[c, s], [-s, c]])
        return turned


class Stack(nn.Module):
    """A model that is its blocks."""

    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Add(nn.Module):
    """Adds a number to its input."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        return x + self.number


class Times(nn.Module):
    """Multiplies its input by a number."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        return self.number * x


def importance_of(model, tokens, **options):
    return lambda blocks: block_importance(blocks, lambda: model(tokens), **options).values


def test_the_least_important_blocks_go_first():
    order = removal_order(SCORES)
    assert order.blocks == (1, 3, 2, 4, 0)
    assert order.scores == (0.1, 0.2, 0.3, 0.8, 0.9)
    assert order.kept(3) == [0, 2, 4]


def test_protected_blocks_never_go():
    order = removal_order([0, 1, 2, 3, 0], protect_head=1, protect_tail=1)
    assert order.kept(2) == [0, 4]
    with pytest.raises(ValueError, match="keep is 1; it must be 2 to 5"):
        order.kept(1)


def test_equal_scores_go_in_the_order_of_blocks():
    assert removal_order([1.0, 0.5, 0.5, 1.0]).kept(3) == [0, 2, 3]


def test_iterative_equals_one_shot_where_blocks_are_independent():
    model = Stack(*(Plane(index, angle) for index, angle in enumerate((0.9, 0.2, 0.7, 0.4, 0.5))))
    tokens = torch.ones(1, 3, 10)
    measure = importance_of(model, tokens)
    order = iterative_removal_order(model, measure, keep=1, progress=False)
    at_once = removal_order(measure(model.blocks))
    assert order.blocks == at_once.blocks[:4]
    assert order.scores == pytest.approx(at_once.scores[:4], rel=1e-5)
    assert len(model.blocks) == 5


def test_iterative_sees_what_becomes_important_when_another_block_has_gone():
    # Growth turns nothing and goes first; what is added after it then is no longer small beside the token.
    model = Stack(Times(100), Add(torch.tensor([0.0, 1.0])), Plane(0, 0.1))
    measure = importance_of(model, torch.tensor([[[1.0, 0.0]]]))
    assert removal_order(measure(model.blocks)).blocks == (0, 1, 2)
    assert iterative_removal_order(model, measure, keep=1, progress=False).blocks == (0, 2)


def test_iterative_leaves_the_model_whole_when_measuring_fails():
    model = Stack(Add(1), Add(2), Add(3))
    with pytest.raises(ValueError, match="1 scores for 3 blocks"):
        iterative_removal_order(model, lambda blocks: [0.0], keep=1, progress=False)
    assert [block.number for block in model.blocks] == [1, 2, 3]


def test_iterative_protects_head_and_tail():
    model = Stack(*(Add(n) for n in (0, 1, 2, 3)))
    order = iterative_removal_order(
        model, lambda blocks: [b.number for b in blocks], keep=2, protect_head=1, progress=False
    )
    assert order.kept(2) == [0, 3]


def test_leaving_a_block_out_raises_the_loss_by_what_it_did():
    model = Stack(Add(3), Add(-1), Add(0))
    loss = leave_one_out(model, lambda: (model(torch.zeros(())) - 2) ** 2, progress=False)
    assert loss.tolist() == [9, 1, 0]
    assert len(model.blocks) == 3


def test_the_window_that_turns_least_goes():
    # 0.9 and -0.9 cancel, though each of them turns more than any other block.
    model = Stack(*(Plane(0, angle) for angle in (0.5, 0.9, -0.9, 0.4)))
    importance = block_importance(model.blocks, lambda: model(torch.ones(1, 1, 2)), window=2)
    assert without_window(importance) == [0, 3]
    assert without_window(importance, protect_head=2) == [0, 1]
    with pytest.raises(ValueError, match="they must leave 2 consecutive blocks of 4"):
        without_window(importance, protect_head=2, protect_tail=1)


def test_baselines_keep_as_many_as_asked():
    assert evenly_spaced(20, 5) == [0, 5, 10, 14, 19]
    assert evenly_spaced(20, 1) == [0]
    assert evenly_spaced(3, 3) == [0, 1, 2]
    assert random_blocks(20, 7, seed=1) == random_blocks(20, 7, seed=1) != random_blocks(20, 7, seed=2)
    assert len(set(random_blocks(20, 7, seed=1))) == 7


def test_nan_cannot_be_ranked():
    with pytest.raises(ValueError, match="score of block 1 is NaN"):
        removal_order([0.1, math.nan])


def test_protecting_more_blocks_than_there_are_is_refused():
    with pytest.raises(ValueError, match="protect_head is 2 and protect_tail 2; they must fit a model of 3"):
        removal_order([1, 2, 3], protect_head=2, protect_tail=2)

import pytest
import torch

from sana_train import Draws


def test_a_draw_depends_on_its_slot_and_not_on_the_batch():
    whole = Draws(0, 5, range(4)).normal((4, 3), "noise")
    second_half = Draws(0, 5, [2, 3]).normal((2, 3), "noise")
    assert torch.equal(whole[2:], second_half)


def test_seed_step_slot_and_purpose_each_change_the_draw():
    draws = [
        Draws(0, 0, [0]).normal((1, 8), "noise"),
        Draws(1, 0, [0]).normal((1, 8), "noise"),
        Draws(0, 1, [0]).normal((1, 8), "noise"),
        Draws(0, 0, [1]).normal((1, 8), "noise"),
        Draws(0, 0, [0]).normal((1, 8), "time"),
    ]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 5


def test_moments_are_those_of_the_named_distribution():
    draws = Draws(0, 0, range(2000))
    normal, uniform = draws.normal((2000, 10), "a"), draws.uniform((2000, 10), "b")
    # Five standard errors of 20,000 values: 5/sqrt(20000) for the mean, and the like.
    assert normal.mean().abs() < 0.036
    assert (normal.var() - 1).abs() < 0.05
    assert (uniform.mean() - 0.5).abs() < 0.0103
    assert uniform.min() >= 0
    assert uniform.max() < 1


def test_a_shape_for_another_batch_is_refused():
    with pytest.raises(ValueError, match="asks for 2 slots; this step has 3"):
        Draws(0, 0, range(3)).normal((2, 4), "noise")

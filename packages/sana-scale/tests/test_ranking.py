import random

import pytest

from sana_scale.ranking import Podium, best_first, entering, mean_ranks, rank_correlation


def test_the_podium_holds_the_best_of_any_order():
    draw = random.Random(0)
    scored = [(seed, draw.randrange(5)) for seed in range(40)]
    podium = Podium(6)
    for seed, score in draw.sample(scored, 40):
        podium.enter(seed, score)
    assert podium.seeds == [seed for seed, _ in sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:6]]
    assert podium.best == (podium.seeds[0], 4)


def test_whatever_prefix_is_left_its_best_are_among_those_that_entered():
    draw = random.Random(1)
    for _ in range(50):
        earlier, unit = Podium(3), [(seed, draw.randrange(8)) for seed in range(10, 20)]
        for seed in range(10):
            earlier.enter(seed, draw.randrange(8))
        entered = entering(earlier, unit)
        for length in range(len(unit) + 1):
            podium = earlier.copy()
            for pair in unit[:length]:
                podium.enter(*pair)
            assert {seed for seed in podium.seeds if seed >= 10} <= entered


def test_equal_scores_are_in_their_order():
    assert best_first([1, 3, 2, 3]) == [1, 3, 2, 0]


def test_equal_values_share_their_rank():
    assert mean_ranks([5, 1, 5, 0]) == [2.5, 1.0, 2.5, 0.0]


def test_rank_correlation_of_known_cases():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 99]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(
        1 - 6 * 4 / (5 * 24)
    )  # 1 - 6 sum d^2 / n(n^2-1)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0

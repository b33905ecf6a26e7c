import math
import random

import pytest

from sana_scale import tournament


def counting(key=lambda image: image):
    def compare(a, b):
        compare.calls += 1
        return key(a) > key(b)

    compare.calls = 0
    return compare


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 33, 100])
def test_the_best_come_first_whatever_their_number(count):
    images = random.Random(count).sample(range(1000), count)
    for keep in {1, min(3, count), count}:
        assert tournament(images, counting(), keep=keep) == sorted(images, reverse=True)[:keep]


def test_the_winner_takes_one_comparison_per_loser_and_each_further_place_a_logarithm():
    images, compare = random.Random(0).sample(range(10**6), 256), counting()
    tournament(images, compare)
    assert compare.calls == 255
    compare.calls = 0
    tournament(images, compare, keep=5)
    assert compare.calls <= 255 + 4 * math.log2(256) + 4


def test_the_earlier_of_equals_wins():
    images = [(1, "a"), (2, "b"), (1, "c"), (2, "d"), (2, "e")]
    assert tournament(images, counting(lambda image: image[0]), keep=4) == [(2, "b"), (2, "d"), (2, "e"), (1, "a")]


def test_the_released_rule_gives_winners_of_groups():
    images = [1, 9, 8, 7, 2, 3, 4, 5]
    assert tournament(images, counting(), keep=2, released=True) == [9, 5]
    assert tournament(images, counting(), keep=2) == [9, 8]


def test_the_released_rule_lets_the_later_of_equals_win():
    equal = [(1, "a"), (1, "b"), (1, "c"), (1, "d")]
    assert tournament(equal, counting(lambda image: image[0]), released=True) == [(1, "d")]


@pytest.mark.parametrize(
    ("count", "ask", "words"),
    [
        (3, {"keep": 4}, "keep is 4; it must be from 1 to 3"),
        (3, {"keep": 0}, "keep is 0"),
        (6, {"released": True}, "there are 6 images; .* a power of two"),
        (8, {"keep": 3, "released": True}, "there are 3 images to keep"),
    ],
)
def test_impossible_brackets_are_refused(count, ask, words):
    with pytest.raises(ValueError, match=words):
        tournament(range(count), counting(), **ask)

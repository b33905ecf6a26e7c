import math

import pytest

from sana_judge import Minimum, RankMean
from sana_judge.scorers.ensembles import relative_ranks


def lengths(prompt, images):
    return [len(image) for image in images]


def vowels(prompt, images):
    return [sum(letter in "aeiou" for letter in image) for image in images]


IMAGES = ["banana", "sky", "ocean", "zzzzzzzz"]  # lengths 6 3 5 8; vowels 3 0 3 0


def test_plain_functions_are_judges():
    # ranks by length 2/3 0 1/3 1; by vowels 5/6 1/6 5/6 1/6
    assert RankMean([lengths, vowels])("", IMAGES) == pytest.approx([9 / 12, 1 / 12, 7 / 12, 7 / 12])
    assert Minimum([lengths, vowels])("", IMAGES) == [3, 0, 3, 0]


def test_weights_count():
    assert RankMean([lengths, vowels], [3, 1])("", IMAGES) == pytest.approx([17 / 24, 1 / 24, 11 / 24, 19 / 24])


def test_ranks_do_not_depend_on_the_scale():
    stretched = RankMean([lambda prompt, images: [1e9 * math.exp(n) for n in lengths(prompt, images)], vowels])
    assert stretched("", IMAGES) == RankMean([lengths, vowels])("", IMAGES)


def test_ranks_count_wins_and_half_of_the_ties():
    assert relative_ranks([1.0, 5.0, 3.0]) == [0, 1, 0.5]
    assert relative_ranks([2.0, 2.0, 2.0]) == [0.5, 0.5, 0.5]
    assert relative_ranks([7.0]) == [0.5]


def test_no_images_no_scores():
    assert RankMean([lengths])("", []) == Minimum([lengths])("", []) == []


def test_wrong_judges_and_weights_are_refused():
    for ensemble in (RankMean, Minimum):
        with pytest.raises(ValueError, match="no judges"):
            ensemble([])
    with pytest.raises(ValueError, match="2 judges with the weights"):
        RankMean([lengths, vowels], [1.0])
    with pytest.raises(ValueError, match="above 0"):
        RankMean([lengths], [0.0])
    with pytest.raises(ValueError, match="finite"):
        RankMean([lengths, vowels], [1.0, math.inf])


def test_an_error_says_whose_it_was():
    with pytest.raises(ValueError, match="1 scores for 4 images") as error:
        Minimum([lengths, lambda prompt, images: [1.0]])("", IMAGES)
    assert "judges[1]" in error.value.__notes__[0]
    with pytest.raises(FloatingPointError, match=r"images\[2\] is nan"):
        RankMean([lambda prompt, images: [0.0, 1.0, math.nan, 2.0]])("", IMAGES)

import math
import pickle

import pytest

from sana_scale import Judge, Minimum, Weighted, best_of_n


def length(prompt, images):
    return [len(image) / 10 for image in images]


def vowels(prompt, images):
    return [sum(image.count(letter) for letter in "aeiou") / 10 for image in images]


def broken(prompt, images):
    return [float("nan")] * len(images)


def test_weights_are_relative():
    both = Weighted([length, vowels], [3, 1])
    assert isinstance(both, Judge)
    assert both("", ["aaaa", "xxxxxxxx"]) == pytest.approx([0.75 * 0.4 + 0.25 * 0.4, 0.75 * 0.8])
    assert Weighted([length, vowels], [0.75, 0.25])("", ["abc"]) == both("", ["abc"])


def test_judges_that_agree_are_not_changed():
    def certain(prompt, images):
        return [1.0] * len(images)

    assert Weighted([certain] * 3, [0.1, 0.2, 0.7])("", ["a"]) == [1.0]
    assert Weighted([certain] * 10, range(1, 11))("", ["a"]) == [1.0]


def test_the_minimum_is_the_strictest():
    assert Minimum([length, vowels])("", ["aaaa", "xxxxxxxx"]) == [0.4, 0.0]


def test_they_judge_a_run(sampler):
    result = best_of_n(sampler, Minimum([length, lambda prompt, images: [0.3] * len(images)]), "a", n=20)
    assert {candidate.score for candidate in result.candidates} == {0.3}


def test_they_travel_to_other_processes():
    assert pickle.loads(pickle.dumps(Weighted([length, vowels], [1, 1])))("", ["abc"]) == [0.2]


def test_an_error_names_the_judge():
    with pytest.raises(ValueError, match="nan") as caught:
        Weighted([length, broken], [1, 1])("", ["a"])
    assert "judge 1 of 2" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Weighted([length], [1, 2]), "1 judges and 2 weights"),
        (lambda: Weighted([], []), "0 judges"),
        (lambda: Weighted([length, vowels], [1, 0]), "above 0"),
        (lambda: Weighted([length, vowels], [math.inf, 1]), "above 0 and finite"),
        (lambda: Weighted([length, vowels], [math.nan, 1]), "above 0 and finite"),
        (lambda: Minimum([]), "at least one"),
    ],
)
def test_senseless_juries_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()

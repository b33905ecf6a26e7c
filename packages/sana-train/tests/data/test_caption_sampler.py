import math
from collections import Counter

import pytest

from sana_train.data.caption_sampler import CaptionSampler


def test_probabilities_are_the_papers_softmax():
    scores = [24.0, 25.0, 26.0]
    weights = [math.exp(score / 2) for score in scores]
    expected = [weight / sum(weights) for weight in weights]
    assert CaptionSampler(tau=2.0).probabilities(scores) == pytest.approx(expected, rel=1e-12)


def test_a_small_temperature_takes_the_best_and_does_not_overflow():
    assert CaptionSampler(tau=1e-9).probabilities([20.0, 31.0, 30.0]) == [0.0, 1.0, 0.0]
    assert CaptionSampler(tau=1e-9, mode="power").probabilities([20.0, 31.0, 30.0]) == [0.0, 1.0, 0.0]


def test_power_is_what_upstream_does():
    chosen = CaptionSampler(tau=0.1, threshold=25.0, mode="power").probabilities([24.0, 25.0, 30.0])
    assert chosen == pytest.approx([0, 25**10 / (25**10 + 30**10), 30**10 / (25**10 + 30**10)], rel=1e-12)


@pytest.mark.parametrize("mode", ["softmax", "power"])
def test_below_the_threshold_nothing_is_drawn_unless_everything_is(mode):
    sampler = CaptionSampler(tau=10.0, threshold=25.0, mode=mode)
    probabilities = sampler.probabilities([10.0, 25.0, 26.0])
    assert probabilities[0] == 0
    assert min(probabilities[1:]) > 0.4
    assert sampler.probabilities([10.0, 12.0, 11.0]) == [0.0, 1.0, 0.0]


def test_power_of_scores_that_are_not_positive_takes_the_best():
    assert CaptionSampler(mode="power").probabilities([-3.0, -1.0]) == [0.0, 1.0]
    assert CaptionSampler(mode="power").probabilities([-3.0, 1.0]) == [0.0, 1.0]


def test_an_infinite_temperature_draws_all_alike():
    sampler = CaptionSampler(tau=math.inf)
    assert not sampler.needs_scores
    assert sampler.probabilities([0.0, 0.0]) == [0.5, 0.5]
    assert CaptionSampler(tau=math.inf, mode="power").probabilities([5.0, 1.0]) == [0.5, 0.5]


def test_captions_are_drawn_as_often_as_their_probabilities_say():
    sampler = CaptionSampler(tau=1.0)
    scores = [25.0, 26.0, 20.0]
    draws = Counter(sampler.choose(scores, seed=0, epoch=epoch, key="a") for epoch in range(2000))
    for index, probability in enumerate(sampler.probabilities(scores)):
        deviation = math.sqrt(probability * (1 - probability) / 2000)
        assert abs(draws[index] / 2000 - probability) < 4 * deviation  # a chance of 6e-5


def test_a_choice_is_a_function_of_seed_epoch_and_key():
    sampler = CaptionSampler(tau=math.inf)

    def choices(**changes):
        names = {"seed": 0, "epoch": 0} | changes
        return [sampler.choose([1.0] * 9, key=str(key), **names) for key in range(50)]

    assert choices() == choices()
    assert choices() != choices(epoch=1)
    assert choices() != choices(seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "tau is 0.0; it must be positive"),
        ({"tau": math.nan}, "tau is nan; it must be positive"),
        ({"threshold": math.inf}, "threshold is inf"),
        ({"mode": "max"}, "mode is 'max'; it must be 'softmax' or 'power'"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CaptionSampler(**options)


def test_scores_that_are_no_numbers_are_refused():
    for scores in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="there must be a finite one per caption"):
            CaptionSampler().probabilities(scores)

import math
import random

import pytest

from sana_scale import Budget, ImprovementBelow, NoGain, StopRule, Threshold, best_of_n
from sana_scale.expected_excess import expected_excess, student_tail


def stops_at(rule, scores):
    """How many scores it takes, or None."""
    return next((count for count in range(1, len(scores) + 1) if rule(scores[:count], 0.0)), None)


def test_threshold_stops_at_the_first_score_that_reaches_it():
    assert stops_at(Threshold(0.9), [0.1, 0.89, 0.9, 0.95]) == 3
    assert stops_at(Threshold(0.9), [0.1]) is None


def test_no_gain_waits_for_the_window():
    assert stops_at(NoGain(3), [1, 5, 2, 5, 4]) == 5  # an equal score is no gain
    assert stops_at(NoGain(3), [1, 2, 3, 4, 5, 6]) is None


def test_budget_ends_with_either():
    budget = Budget(images=3, seconds=10)
    assert [budget([0.0] * count, 9.9) for count in (2, 3)] == [False, True]
    assert budget([0.0], 10.0)


def test_improvement_stops_when_the_gain_is_below_the_cost():
    draws = random.Random(0)
    scores = [draws.gauss(0, 1) for _ in range(2000)]
    cheap, dear = stops_at(ImprovementBelow(0.002), scores), stops_at(ImprovementBelow(0.05), scores)
    assert dear < cheap
    # A standard normal is expected to exceed 2.2 by 0.00489 and 2.6 by 0.00146: 0.002 lies between.
    assert 2.2 < max(scores[:cheap]) < 3.3


def test_a_ceiling_ends_the_hope_for_more():
    scores = [0.1, 0.9, 0.2, 0.99, 0.3, 0.98]
    assert stops_at(ImprovementBelow(0.01), scores) is None
    assert stops_at(ImprovementBelow(0.01, ceiling=1.0), scores) == 4  # 0.01 is all there is to gain


def test_equal_scores_are_no_reason_to_stop_below_the_ceiling():
    assert stops_at(ImprovementBelow(0.1, ceiling=1.0), [0.0] * 40) is None
    assert stops_at(ImprovementBelow(0.1), [0.5] * 40) is None
    assert stops_at(ImprovementBelow(1e-9, ceiling=1.0), [1.0] * 6) == 4
    assert stops_at(ImprovementBelow(0.1, ceiling=1.0), [0.0] * 6 + [1.0]) == 7  # the hit that it waits for


@pytest.mark.parametrize("freedom", [1, 2, 3, 8, 25])
def test_the_tail_is_the_integral_of_the_density(freedom):
    density = lambda t: (1 + t * t / freedom) ** (-(freedom + 1) / 2)  # noqa: E731
    norm = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    for t in (-1.5, 0.0, 0.7, 3.0):
        steps = 2000  # midpoints: an error of 1e-6 at this step
        inside = sum(density(t * (step + 0.5) / steps) for step in range(steps)) * t / steps * norm
        assert student_tail(t, freedom) == pytest.approx(0.5 - inside, abs=2e-6)


def test_the_expected_excess_is_that_of_simulated_draws():
    draws, past = random.Random(1), [0.2, -1.0, 0.4, 1.1, 0.6]
    mean, spread = sum(past) / 5, math.sqrt(sum((x - sum(past) / 5) ** 2 for x in past) / 4 * (1 + 1 / 5))
    count, total, squares = 200_000, 0.0, 0.0
    for _ in range(count):
        chi2 = draws.gammavariate(2, 2)  # 4 degrees of freedom
        excess = max(mean + spread * draws.gauss(0, 1) / math.sqrt(chi2 / 4) - 1.1, 0.0)
        total, squares = total + excess, squares + excess**2
    error = math.sqrt((squares / count - (total / count) ** 2) / count)
    assert expected_excess(past, 1.1) == pytest.approx(total / count, abs=4 * error)


def test_several_rules_stop_at_the_first_that_holds(sampler, judge):
    result = best_of_n(sampler, judge, "a", n=64, stop=[Threshold(1000), Budget(images=11)])
    assert (len(result.candidates), result.stopped) == (11, "Budget(images=11, seconds=None)")


def test_a_time_budget_throws_no_judged_image_away(sampler, judge):
    result = best_of_n(sampler, judge, "a", n=64, batch_size=4, stop=Budget(seconds=1e-9))
    assert len(result.candidates) == 4


def test_any_function_of_scores_and_seconds_is_a_rule(sampler, judge):
    rule = lambda scores, seconds: len(scores) == 5  # noqa: E731
    assert isinstance(rule, StopRule)
    assert len(best_of_n(sampler, judge, "a", n=64, stop=rule).candidates) == 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NoGain(0), "at least 1"),
        (lambda: NoGain(2.5), "whole number"),
        (lambda: Budget(images=2.5), "whole number"),
        (lambda: ImprovementBelow(0.1, at_least=3.5), "whole number"),
        (lambda: Budget(), "limits nothing"),
        (lambda: Budget(images=0), "at least 1"),
        (lambda: Budget(seconds=0), "above 0"),
        (lambda: Budget(seconds=math.inf), "above 0 and finite"),
        (lambda: Threshold(math.nan), "finite"),
        (lambda: ImprovementBelow(0), "above 0"),
        (lambda: ImprovementBelow(math.inf), "above 0 and finite"),
        (lambda: ImprovementBelow(0.1, ceiling=math.nan), "or math.inf"),
        (lambda: ImprovementBelow(0.1, at_least=2), "at least 3"),
    ],
)
def test_senseless_rules_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_no_rule_stops_before_there_are_enough_to_keep(sampler, judge):
    result = best_of_n(sampler, judge, "a", n=64, keep=5, stop=Threshold(-1))
    assert len(result.candidates) == len(result.images) == 5


def test_a_hit_before_there_are_enough_to_keep_counts(sampler):
    only_the_first = lambda prompt, images: [float(image == "a:0") for image in images]  # noqa: E731
    result = best_of_n(sampler, only_the_first, "a", n=64, keep=4, stop=Threshold(0.95))
    assert (len(result.candidates), result.best.seed) == (4, 0)

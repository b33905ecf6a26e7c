import itertools
import math

import pytest

from sana_judge import Calibration, JudgeScore


@pytest.fixture
def score():
    def make(yes: float, no: float, *, says_yes: bool | None = None, other: float = 0.0) -> JudgeScore:
        log_z = math.log(math.exp(yes) + math.exp(no) + other)
        says_yes = yes > no if says_yes is None else says_yes
        p_yes = Calibration()(yes - no)
        return JudgeScore(p_yes=p_yes, logit_yes=yes, logit_no=no, log_z=log_z, says_yes=says_yes, tiles=1)

    return make


def released_winner(a: JudgeScore, b: JudgeScore) -> JudgeScore:
    """The comparison of the released procedure."""
    if a.says_yes != b.says_yes:
        return a if a.says_yes else b
    if a.says_yes:
        return a if a.logit_yes > b.logit_yes else b
    return a if a.logit_no < b.logit_no else b


def test_the_released_rule_orders_as_its_pairwise_comparison_does(score):
    scores = [score(yes, no) for yes, no in itertools.product((-20.5, 0.25, 3.0, 30.0), (-8.0, 2.0, 19.0))]
    for a, b in itertools.combinations(scores, 2):
        if released_winner(a, b) != released_winner(b, a):
            continue  # a tie, which goes to whoever is second
        assert released_winner(a, b) == max(a, b, key=lambda score: score.value("released"))


def test_the_paper_rule_prefers_sure_yes_then_unsure_no(score):
    ordered = [score(5, 0), score(1, 0), score(0, 1), score(0, 5)]
    values = [score.value("paper") for score in ordered]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(1 / (1 + math.exp(-5)))
    assert values[3] == pytest.approx(-1 / (1 + math.exp(-5)))


def test_the_paper_rule_counts_all_words(score):
    assert score(1, 0, other=100).value("paper") < score(1, 0).value("paper")


def test_the_default_rule_is_the_probability(score):
    assert score(2, 0).value() == score(2, 0).p_yes == pytest.approx(0.880797, abs=1e-6)


def test_probabilities_of_any_margin_are_finite_and_keep_their_order():
    margins = [-1e4, -40, -1, 0, 1, 30]
    values = [Calibration(scale=0.5, offset=1)(margin) for margin in margins]
    assert values == sorted(set(values))
    assert values[0] >= 0
    assert Calibration()(1e4) == 1


@pytest.mark.parametrize("fields", [{"scale": 0}, {"scale": -1}, {"scale": math.nan}, {"offset": math.inf}])
def test_a_calibration_that_would_change_the_order_is_refused(fields):
    with pytest.raises(ValueError, match="both must be finite, scale above 0"):
        Calibration(**fields)

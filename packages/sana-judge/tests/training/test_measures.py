import itertools
import math

import numpy as np
import pytest

from sana_judge.training import accuracy, auc, calibration_error, per_prompt_auc, risk_coverage


@pytest.fixture
def answers():
    """Scores with many ties, and labels that lean towards them."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, 200) / 11
    return scores, (rng.random(200) < 0.2 + 0.6 * scores).astype(float)


def counted_auc(scores, labels):
    """By its definition: all pairs of a right and a wrong picture."""
    pairs = itertools.product(scores[labels > 0.5], scores[labels <= 0.5])
    return np.mean([(better > worse) + 0.5 * (better == worse) for better, worse in pairs])


def test_auc_is_the_share_of_pairs_in_order(answers):
    # Both are sums of halves: exact but for the division.
    assert auc(*answers) == pytest.approx(counted_auc(*answers), abs=1e-12)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_auc_of_one_label_does_not_exist(labels):
    assert math.isnan(auc([0.1, 0.2, 0.3], labels))


def test_auc_per_prompt_is_the_mean_over_prompts_with_both_labels(answers):
    scores, labels = answers
    groups = [f"prompt {number % 7}" for number in range(199)] + ["alone"]
    parts = [np.array([g == group for g in groups]) for group in sorted(set(groups) - {"alone"})]
    expected = np.mean([counted_auc(scores[part], labels[part]) for part in parts])
    assert per_prompt_auc(scores, labels, groups) == (pytest.approx(expected, abs=1e-12), 7)


def test_auc_per_prompt_ignores_differences_between_prompts():
    easy_and_hard = [0.9, 0.8, 0.2, 0.1]
    assert auc(easy_and_hard, [1, 0, 1, 0]) == 0.75
    assert per_prompt_auc(easy_and_hard, [1, 0, 1, 0], ["easy", "easy", "hard", "hard"]) == (1.0, 2)


def test_accuracy_counts_answers_on_the_right_side_of_one_half():
    assert accuracy([0.9, 0.6, 0.4, 0.1], [1, 0, 1, 0]) == 0.5


def test_the_calibration_error_is_the_mean_gap_over_bins(answers):
    probabilities, labels = answers
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (probabilities >= low) & ((probabilities < low + 1 / 15) | (low + 1 / 15 > 0.999))
        if inside.any():
            expected += inside.sum() / 200 * abs(probabilities[inside].mean() - labels[inside].mean())
    assert calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-12)


def test_a_true_frequency_has_no_calibration_error():
    assert calibration_error([0.25] * 4 + [1.0] * 2, [1, 0, 0, 0, 1, 1]) == pytest.approx(0, abs=1e-15)


def test_risk_grows_from_the_surest_answers_to_all(answers):
    probabilities = np.random.default_rng(1).random(200)
    labels = answers[1]
    coverage, risk = risk_coverage(probabilities, labels)
    order = np.argsort(-abs(probabilities - 0.5))
    wrong = ((probabilities > 0.5) != (labels > 0.5))[order]
    np.testing.assert_allclose(risk, [wrong[: n + 1].mean() for n in range(200)], atol=1e-12)
    assert (coverage[0], coverage[-1]) == (1 / 200, 1.0)
    assert risk[-1] == pytest.approx(1 - accuracy(probabilities, labels))


def test_equally_sure_answers_share_their_errors():
    right_first, wrong_first = [risk_coverage([0.9, 0.9, 0.6], labels)[1] for labels in ([1, 0, 1], [0, 1, 1])]
    np.testing.assert_allclose(right_first, [0.5, 0.5, 1 / 3])
    np.testing.assert_allclose(right_first, wrong_first)

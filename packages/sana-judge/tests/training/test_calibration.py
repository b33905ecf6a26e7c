import numpy as np
import pytest

from sana_judge import Calibration
from sana_judge.training import fit_calibration, fit_tasks


def drawn(scale, offset, *, count, seed=0):
    """Margins, and labels that are right as often as sigmoid(scale * margin + offset) says."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(2, 5, count)
    return margins, (rng.random(count) < 1 / (1 + np.exp(-(scale * margins + offset)))).astype(float)


def test_the_fit_finds_what_the_labels_were_drawn_with():
    fitted = fit_calibration(*drawn(0.5, -1.5, count=200_000))
    # The standard errors are 0.0021 and 0.0080 (from the inverse curvature at the truth): four of them.
    assert fitted.scale == pytest.approx(0.5, abs=0.009)
    assert fitted.offset == pytest.approx(-1.5, abs=0.032)


def test_the_fit_is_a_minimum():
    margins, labels = drawn(0.5, -1.5, count=500)
    right = labels.sum()
    targets = np.where(labels > 0, (right + 1) / (right + 2), 1 / (500 - right + 2))

    def loss(scale, offset):
        logits = scale * margins + offset
        return (np.logaddexp(0, logits) - targets * logits).sum()

    fitted = fit_calibration(margins, labels)
    least = loss(fitted.scale, fitted.offset)
    nudges = [(1e-3, 0), (-1e-3, 0), (0, 1e-2), (0, -1e-2)]
    assert all(loss(fitted.scale + scale, fitted.offset + offset) > least for scale, offset in nudges)


def test_separable_answers_give_finite_numbers():
    fitted = fit_calibration([-3.0, -2.0, 2.0, 3.0], [0, 0, 1, 1])
    # Platt's targets for two answers of a kind are 1/4 and 3/4.
    assert fitted(2.5) == pytest.approx(0.75, abs=0.01)


def test_large_margins_are_no_trouble():
    fitted = fit_calibration(1e4 + np.arange(40.0), np.arange(40) % 4 > 0.5 + (np.arange(40) < 20))
    assert np.isfinite([fitted.scale, fitted.offset]).all()


@pytest.mark.parametrize(
    ("labels", "message"), [([1, 1, 1, 1], "4 right and 0 wrong"), ([1, 1, 0, 0], "train the judge longer")]
)
def test_what_cannot_be_fitted_says_why(labels, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration([1.0, 2.0, 3.0, 4.0], labels)


def test_tasks_with_few_answers_keep_the_overall_calibration():
    margins, labels = drawn(1.0, 0.0, count=120)
    tasks = ["counting"] * 80 + ["position"] * 20 + [""] * 20
    fitted = fit_tasks(margins, labels, tasks)
    assert fitted == {"counting": fit_calibration(margins[:80], labels[:80])}
    assert isinstance(fitted["counting"], Calibration)

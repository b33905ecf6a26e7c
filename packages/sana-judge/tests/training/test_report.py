import json

import numpy as np
import pytest
from PIL import Image

from sana_judge import JudgeFacts
from sana_judge.training import JudgedExample, calibrated_facts, judge_report, plot_report, write_report


@pytest.fixture
def judged():
    """400 answers of a judge that sees something, in two tasks and prompts of eight pictures."""
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 3, 400)
    labels = rng.random(400) < 1 / (1 + np.exp(-margins))
    return [
        JudgedExample(
            margin=margin,
            p_yes=1 / (1 + np.exp(-3 * margin)),  # too sure
            label=float(label),
            group=f"prompt {n // 8}",
            task="counting" if n < 200 else "position",
        )
        for n, (margin, label) in enumerate(zip(margins, labels, strict=True))
    ]


def test_a_report_covers_all_and_each_task(judged):
    report = judge_report(judged)
    assert report["examples"] == 400
    assert report["tasks"].keys() == {"counting", "position"}
    assert report["tasks"]["counting"]["examples"] == 200
    assert 0.85 < report["auc"] < 0.95  # margins of this spread and truth: 0.90
    assert report["risk"]["coverage"][-1] == 1.0
    assert report["risk"]["risk"][-1] == pytest.approx(1 - report["accuracy"], abs=1e-4)
    assert report["risk"]["risk"][0] < report["risk"]["risk"][-1]


def test_a_calibration_makes_probabilities_true(judged):
    facts = calibrated_facts(JudgeFacts(question="{prompt}?"), judged)
    again = [
        JudgedExample(margin=e.margin, p_yes=facts.calibration(e.margin), label=e.label, group=e.group, task=e.task)
        for e in judged
    ]
    before, after = judge_report(judged), judge_report(again)
    assert after["calibration_error"] < before["calibration_error"] / 2
    assert after["auc"] == before["auc"]
    assert facts.tasks.keys() == {"counting", "position"}
    assert facts.question == "{prompt}?"


def test_numbers_that_do_not_exist_are_null(judged, tmp_path):
    right = [example for example in judged if example.label == 1]
    write_report(tmp_path / "report.json", judge_report(right))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["auc"] is report["per_prompt_auc"] is None
    assert report["prompts_with_both"] == 0


def test_a_report_on_nothing_is_refused():
    with pytest.raises(ValueError, match="no examples"):
        judge_report([])


def test_plots_are_pictures(judged, tmp_path):
    paths = plot_report(judged, tmp_path / "plots")
    assert [path.name for path in paths] == ["reliability.png", "risk_coverage.png"]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.size == (600, 540)
    assert len(list((tmp_path / "plots").iterdir())) == 2

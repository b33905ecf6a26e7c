import math

import pytest

from sana_train.metrics import MetricsLog
from sana_train.plots import plot_run, smoothed

pytest.importorskip("matplotlib")


def test_three_pictures_are_drawn_from_the_log(tmp_path):
    from matplotlib.image import imread

    log = MetricsLog(tmp_path)
    for step in range(1, 41):
        log.append({"step": step, "loss": 1 / step, "grad_norm": 0.1 + 1 / step, "lr": 1e-4})
    log.append({"step": 41, "loss": math.nan, "grad_norm": 0.1, "lr": 1e-4, "skipped": "loss is nan", "keys": ["a"]})
    log.append({"step": 41, "val/loss": 0.2, "val/loss_t0.0-0.5": 0.3, "val/loss_t0.5-1.0": 0.1})
    paths = plot_run(tmp_path)
    assert [path.name for path in paths] == ["loss.png", "lr.png", "grad_norm.png"]
    for path in paths:
        colours = {tuple(pixel) for row in (imread(path) * 255).round().astype(int)[::2, ::2] for pixel in row.tolist()}
        assert len(colours) > 10, f"{path.name} shows a curve"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".png", ".png", ".png"]


def test_a_log_of_one_line_or_of_odd_numbers_is_drawn(tmp_path):
    MetricsLog(tmp_path).append({"step": 1, "loss": math.inf, "grad_norm": 0.0, "lr": 0.0})
    assert len(plot_run(tmp_path)) == 3
    MetricsLog(tmp_path).append({"step": 2, "loss": -1.0})
    assert len(plot_run(tmp_path)) == 3


def test_a_run_that_has_logged_nothing_has_no_pictures(tmp_path):
    assert plot_run(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_smoothing_keeps_a_constant_and_passes_over_gaps():
    assert smoothed([2.0] * 200) == pytest.approx([2.0] * 200)
    assert smoothed([math.nan, 1.0, math.nan, 1.0])[1:] == [1.0, 1.0, 1.0]
    # 100 values at a share of 2%: a mean over 2 values, which halves the weight of the past at each.
    assert smoothed([0.0] * 99 + [1.0])[-1] == pytest.approx(0.5)

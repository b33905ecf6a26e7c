import json
import random

import pytest
from PIL import Image

from sana_scale import ImageCost, best_of_k_curve, plot_curve, write_curve

COST = ImageCost(draw=102.0, judge=1.5, unit="TFLOP")


@pytest.fixture
def curve():
    draw = random.Random(0)
    return best_of_k_curve(*([[draw.random() for _ in range(16)] for _ in range(5)] for _ in range(2)))


def test_the_json_holds_the_curve_and_its_cost(curve, tmp_path):
    write_curve(curve, tmp_path / "curve.json", cost=COST)
    content = json.loads((tmp_path / "curve.json").read_text())
    assert content["mean"] == curve.mean
    assert [tuple(band) for band in content["bands"]] == curve.bands
    assert content["cost"] == [k * 103.5 for k in curve.k]
    assert content["cost_per_image"] == {"draw": 102.0, "judge": 1.5, "unit": "TFLOP"}


def test_without_a_cost_there_is_none(curve, tmp_path):
    write_curve(curve, tmp_path / "curve.json")
    assert "cost" not in json.loads((tmp_path / "curve.json").read_text())


@pytest.mark.parametrize("cost", [None, COST])
def test_the_plot_is_a_picture_with_both_curves(curve, tmp_path, cost):
    plot_curve(curve, tmp_path / "curve.png", cost=cost, label="GenEval")
    with Image.open(tmp_path / "curve.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
    assert {(0x1F, 0x5A, 0x92), (0xC4, 0x51, 0x1D)} <= colours


def test_one_prompt_is_drawn_without_bands(tmp_path):
    plot_curve(best_of_k_curve([0.1, 0.5, 0.9]), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000

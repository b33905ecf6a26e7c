import math

import pytest
from PIL import Image

from sana_judge import CascadeJudge

PROMPT = "a photo of a red dog"


@pytest.fixture(scope="module")
def many():
    """Eight different images of five tiles."""
    return [Image.effect_noise((224, 224), 10 * k + 10).convert("RGB") for k in range(8)]


def order(values):
    return sorted(range(len(values)), key=lambda index: -values[index])


def test_the_top_share_of_the_first_look_gets_a_second(judge, many, count_calls):
    tiles = count_calls(judge.model.vision_tower)
    values = CascadeJudge(judge, share=0.25)(PROMPT, many)
    assert tiles == [8, 10]
    first = judge(PROMPT, [image.resize((112, 112)) for image in many])
    top = order(first)[:2]
    assert sorted(order(values)[:2]) == sorted(top)
    assert [values[index] for index in top] == pytest.approx(judge(PROMPT, [many[index] for index in top]), abs=1e-5)


def test_the_others_keep_the_order_of_the_first_look_below(judge, many):
    values = CascadeJudge(judge, share=0.25)(PROMPT, many)
    first = judge(PROMPT, [image.resize((112, 112)) for image in many])
    assert order(values)[2:] == order(first)[2:]
    assert all(values[index] <= first[index] + 1e-5 for index in order(first)[2:])


def test_all_get_a_close_look_when_the_share_is_one(judge, many):
    assert CascadeJudge(judge, share=1)(PROMPT, many) == pytest.approx(judge(PROMPT, many), abs=1e-5)


def test_what_one_tile_shows_whole_is_not_judged_twice(judge, count_calls):
    small = [Image.effect_noise((112, 112), 10 * k + 10).convert("RGB") for k in range(4)]
    tiles = count_calls(judge.model.vision_tower)
    values = CascadeJudge(judge, share=0.5)(PROMPT, small)
    assert tiles == [4]
    assert values == pytest.approx(judge(PROMPT, small), abs=1e-5)


def test_no_images_no_numbers(judge):
    assert CascadeJudge(judge)(PROMPT, []) == []


@pytest.mark.parametrize("share", [0, -0.5, 1.5, math.nan])
def test_a_share_is_above_zero_and_at_most_one(judge, share):
    with pytest.raises(ValueError, match="it must be above 0 and at most 1"):
        CascadeJudge(judge, share=share)
    with pytest.raises(ValueError, match="first_tiles is 0"):
        CascadeJudge(judge, first_tiles=0)

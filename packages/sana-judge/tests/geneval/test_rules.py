import dataclasses
import math
import random

import numpy as np
import pytest

from sana_judge.geneval import Detection, Verdict, asked_colors, evaluate, kept_detections, relative_position


def seen(name, *, at=(50, 50), size=20, score=0.95, color=None):
    x, y, half = *at, size / 2
    return Detection(name=name, score=score, box=(x - half, y - half, x + half, y + half), color=color)


def asks(*include, tag="two_object", exclude=()):
    return {"tag": tag, "include": list(include), "exclude": list(exclude), "prompt": "a prompt"}


CAT = {"class": "cat", "count": 1}
RED_CAT = {"class": "cat", "count": 1, "color": "red"}
DOG_LEFT_OF_CAT = [CAT, {"class": "dog", "count": 1, "position": ["left of", 0]}]
THREE_CATS = asks({"class": "cat", "count": 3}, tag="counting", exclude=[{"class": "cat", "count": 4}])


def test_an_object_that_is_there_is_enough_whatever_else_is_there():
    verdict = evaluate([seen("dog"), seen("cat"), seen("cat")], asks(CAT, tag="single_object"))
    assert verdict == Verdict(tag="single_object", prompt="a prompt", correct=True, reason="")


def test_a_missing_object_is_named():
    verdict = evaluate([seen("dog")], asks(CAT, {"class": "dog", "count": 1}))
    assert not verdict.correct
    assert verdict.reason == "expected cat>=1, found 0"


def test_every_wrong_requirement_is_a_line_of_the_reason():
    verdict = evaluate([], asks(CAT, {"class": "dog", "count": 2}))
    assert verdict.reason.splitlines() == ["expected cat>=1, found 0", "expected dog>=2, found 0"]


@pytest.mark.parametrize(("score", "correct"), [(0.3, False), (0.31, True)])
def test_a_detection_counts_above_the_threshold_not_at_it(score, correct):
    assert evaluate([seen("cat", score=score)], asks(CAT)).correct is correct


def test_counting_needs_more_confidence_than_the_other_tasks():
    cats = [seen("cat", score=0.9) for _ in range(3)]
    assert not evaluate(cats, THREE_CATS).correct
    assert evaluate(cats, THREE_CATS, counting_threshold=0.5).correct
    assert evaluate(cats, THREE_CATS | {"tag": "colors"}).correct


@pytest.mark.parametrize("count", [2, 3, 4])
def test_counting_is_exact(count):
    verdict = evaluate([seen("cat") for _ in range(count)], THREE_CATS)
    assert verdict.correct is (count == 3)
    assert verdict.reason == {2: "expected cat>=3, found 2", 3: "", 4: "expected cat<4, found 4"}[count]


def test_at_most_sixteen_objects_of_a_class_are_looked_at():
    crowd = asks({"class": "cat", "count": 17})
    assert evaluate([seen("cat") for _ in range(20)], crowd).reason == "expected cat>=17, found 16"


def test_the_colour_asked_for_must_be_that_of_the_most_confident_object():
    red, blue = seen("cat", color="red", score=0.6), seen("cat", color="blue", score=0.8)
    assert evaluate([red], asks(RED_CAT)).correct
    verdict = evaluate([red, blue], asks(RED_CAT))
    assert verdict.reason == "expected red cat>=1, found 0 red; and 1 blue"


def test_the_colours_found_are_counted_in_genevals_order():
    cats = [seen("cat", color=color) for color in ("white", "blue", "teal", "red", "blue", None)]
    verdict = evaluate(cats, asks(RED_CAT | {"count": 6}))
    assert verdict.reason == "expected red cat>=6, found 1 red; and 1 red, 2 blue, 1 white, 1 unnamed, 1 teal"


def test_colours_are_not_looked_at_where_objects_are_missing():
    assert evaluate([seen("cat", color="blue")], asks(RED_CAT | {"count": 2})).reason == "expected cat>=2, found 1"


def test_of_equal_scores_the_later_detection_comes_first():
    # The original reverses an ascending sort.
    assert evaluate([seen("cat", color="blue"), seen("cat", color="red")], asks(RED_CAT)).correct
    assert not evaluate([seen("cat", color="red"), seen("cat", color="blue")], asks(RED_CAT)).correct


def test_every_counted_object_must_have_the_colour():
    two_red = asks(RED_CAT | {"count": 2})
    assert evaluate([seen("cat", color="red"), seen("cat", color="red")], two_red).correct
    assert not evaluate([seen("cat", color="red"), seen("cat", color="blue")], two_red).correct


def test_an_object_without_a_colour_is_in_no_colour():
    assert not evaluate([seen("cat")], asks(RED_CAT)).correct


def test_colours_belong_to_their_own_objects():
    red_cat_black_dog = asks(RED_CAT, {"class": "dog", "count": 1, "color": "black"}, tag="color_attr")
    assert evaluate([seen("cat", color="red"), seen("dog", color="black")], red_cat_black_dog).correct
    swapped = evaluate([seen("cat", color="black"), seen("dog", color="red")], red_cat_black_dog)
    assert len(swapped.reason.splitlines()) == 2


@pytest.mark.parametrize(("dog_x", "correct"), [(10, True), (90, False), (50, False)])
def test_a_position_holds_on_its_own_side_only(dog_x, correct):
    detections = [seen("cat"), seen("dog", at=(dog_x, 50))]
    assert evaluate(detections, asks(*DOG_LEFT_OF_CAT, tag="position")).correct is correct


def test_every_object_must_stand_so_to_every_target():
    two_cats = [{"class": "cat", "count": 2}, DOG_LEFT_OF_CAT[1]]
    between = [seen("cat", at=(10, 50)), seen("dog"), seen("cat", at=(90, 50))]
    assert evaluate(between, asks(*two_cats)).reason == "expected dog left of target, found right of target"


def test_a_position_to_something_missing_is_wrong():
    verdict = evaluate([seen("dog")], asks(*DOG_LEFT_OF_CAT))
    assert verdict.reason.splitlines() == ["expected cat>=1, found 0", "no target for dog to be left of"]


def test_a_position_to_something_in_the_wrong_colour_is_wrong():
    verdict = evaluate([seen("dog", at=(10, 50)), seen("cat", color="blue")], asks(RED_CAT, DOG_LEFT_OF_CAT[1]))
    assert verdict.reason.splitlines()[-1] == "no target for dog to be left of"


def test_a_position_is_not_looked_at_where_the_colour_is_wrong():
    red_dog_left = DOG_LEFT_OF_CAT[1] | {"color": "red"}
    verdict = evaluate([seen("cat"), seen("dog", at=(90, 50), color="blue")], asks(CAT, red_dog_left))
    assert verdict.reason == "expected red dog>=1, found 0 red; and 1 blue"


def test_an_object_at_the_target_itself_has_no_relation():
    verdict = evaluate([seen("cat"), seen("dog")], asks(*DOG_LEFT_OF_CAT))
    assert verdict.reason == "expected dog left of target, found  target"


def test_two_relations_are_both_named():
    verdict = evaluate([seen("cat"), seen("dog", at=(150, 150))], asks(*DOG_LEFT_OF_CAT))
    assert verdict.reason == "expected dog left of target, found below and right of target"


def test_only_the_best_objects_are_placed():
    other_side = [seen("cat"), seen("dog", at=(10, 50)), seen("dog", at=(90, 50), score=0.5)]
    assert evaluate(other_side, asks(*DOG_LEFT_OF_CAT)).correct


def test_what_is_excluded_is_counted_among_all_kept_objects():
    no_dogs = asks(CAT, exclude=[{"class": "dog", "count": 1}])
    assert evaluate([seen("cat"), seen("dog", score=0.31)], no_dogs).reason == "expected dog<1, found 1"
    assert evaluate([seen("cat"), seen("dog", score=0.3)], no_dogs).correct


def test_exclusions_count_no_more_than_sixteen():
    no_crowd = asks(CAT, exclude=[{"class": "cat", "count": 17}])
    assert evaluate([seen("cat") for _ in range(20)], no_crowd).correct


def test_nothing_asked_is_right():
    assert evaluate([seen("cat")], {"tag": "two_object", "prompt": ""}).correct


def test_overlapping_objects_all_count_unless_asked():
    cats = [seen("cat"), seen("cat", at=(51, 50), score=0.93), seen("cat", at=(90, 50), score=0.92)]
    assert len(kept_detections(cats, THREE_CATS)["cat"]) == 3
    assert len(kept_detections(cats, THREE_CATS, max_overlap=0.5)["cat"]) == 2


@pytest.mark.parametrize(("max_overlap", "kept"), [(0.834, 2), (0.833, 1)])
def test_overlap_takes_the_last_row_and_column_for_inside(max_overlap, kept):
    # Boxes of 11 x 11 with the convention; one column apart they share 10 x 11 of 12 x 11: 0.8333.
    cats = [Detection(name="cat", score=0.9 - x / 10, box=(x, 0, x + 10, 10)) for x in (0, 1)]
    assert len(kept_detections(cats, asks(CAT), max_overlap=max_overlap)["cat"]) == kept


def test_only_sixteen_of_a_class_compete_when_overlaps_are_taken_out():
    cats = [seen("cat", score=0.9) for _ in range(16)] + [seen("cat", at=(200, 200), score=0.5)]
    assert len(kept_detections(cats, asks(CAT), max_overlap=0.5)["cat"]) == 1


def test_colours_are_asked_of_the_best_objects_only():
    detections = [seen("cat", score=0.8), seen("cat", score=0.9), seen("dog")]
    kept = kept_detections(detections, asks(RED_CAT))
    assert asked_colors(kept, asks(RED_CAT)) == [detections[1]]
    assert asked_colors(kept, asks(RED_CAT | {"count": 3})) == []
    assert asked_colors(kept, asks(CAT)) == []


@pytest.mark.parametrize("position", [["left of", 1], ["left of", -1], ["beside", 0]])
def test_a_position_that_cannot_be_meant_is_an_error(position):
    with pytest.raises(ValueError, match="position"):
        evaluate([seen("cat"), seen("dog")], asks(CAT, {"class": "dog", "count": 1, "position": position}))


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(0, {"right of"}), (45, {"right of", "below"}), (90, {"below"}), (180, {"left of"}), (270, {"above"})],
)
def test_points_have_up_to_two_relations(degrees, expected):
    x, y = 100 * math.cos(math.radians(degrees)), 100 * math.sin(math.radians(degrees))
    assert relative_position((x, y, x, y), (0, 0, 0, 0)) == expected


def test_a_relation_needs_more_than_half_of_the_offset():
    # For points nothing is shortened, so the bound is sin 30 degrees = 1/2 on either side.
    for degrees, below in ((29, False), (31, True)):
        x, y = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        assert ("below" in relative_position((x, y, x, y), (0, 0, 0, 0))) is below


def test_a_tenth_of_both_extents_is_taken_off_the_offset():
    # Two boxes 10 wide: 2 come off. At an offset of 4, (4 - 2) / 4 is not above a half; at 4.1 it is.
    for offset, relations in ((2.0, set()), (4.0, set()), (4.1, {"right of"})):
        assert relative_position((offset, 0, offset + 10, 10), (0, 0, 10, 10)) == relations


def test_relations_are_those_of_the_formula_in_single_precision():
    # The original computes in float32, on boxes with whole corners, as masks have them.
    rng = random.Random(0)
    for _ in range(2000):
        spans = [sorted(rng.sample(range(40), 2)) for _ in range(4)]
        boxes = [(x0, y0, x1, y1) for (x0, x1), (y0, y1) in (spans[:2], spans[2:])]
        a, b = (np.array(box, dtype=np.float32).reshape(2, 2) for box in boxes)
        offset = (a[0] + a[1] - b[0] - b[1]) / np.float32(2)
        slack = np.float32(0.1) * (a[1] - a[0] + b[1] - b[0])
        left = np.maximum(np.abs(offset) - slack, 0) * np.sign(offset)
        x, y = left / np.linalg.norm(offset) if np.abs(left).max() >= 1e-3 else (0, 0)
        held = [("left of", x < -0.5), ("right of", x > 0.5), ("above", y < -0.5), ("below", y > 0.5)]
        assert relative_position(*boxes) == {name for name, holds in held if holds}, boxes


def test_a_box_given_from_its_far_corner_is_as_large():
    assert relative_position((14, 10, 4, 0), (0, 0, 10, 10)) == relative_position((4, 0, 14, 10), (0, 0, 10, 10))


def test_results_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluate([], asks(CAT)).correct = True

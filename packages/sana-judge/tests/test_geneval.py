import dataclasses
import math

import pytest

from sana_judge import Detection, Verdict, geneval
from sana_judge.geneval import evaluate, relative_position


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
    assert verdict.reason == "expected red cat>=1, found blue"


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


def verdicts(tag, *corrects, prompt="p"):
    return [Verdict(tag=tag, prompt=prompt, correct=correct, reason="") for correct in corrects]


def test_every_task_weighs_the_same_in_the_overall_score():
    table = geneval.table(verdicts("colors", True) + verdicts("position", True, False, False, False))
    assert table.tasks == {"colors": 1.0, "position": 0.25}
    assert table.overall == 0.625
    assert table.images == 0.4


def test_a_prompt_is_solved_by_one_correct_image():
    table = geneval.table(
        verdicts("colors", False, True, prompt="a")
        + verdicts("colors", False, False, prompt="b")
        + verdicts("position", False, prompt="a")
    )
    assert table.prompts == 1 / 3


def test_the_table_reads_as_text():
    text = str(geneval.table(verdicts("colors", True, False)))
    assert "colors" in text
    assert text.count("50.00%") == 3
    assert text.count("100.00%") == 1


def test_no_verdicts_make_no_table():
    with pytest.raises(ValueError, match="no verdicts"):
        geneval.table([])


def test_results_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        evaluate([], asks(CAT)).correct = True

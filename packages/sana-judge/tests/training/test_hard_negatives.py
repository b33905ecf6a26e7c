import pytest

from sana_judge import Detection, geneval
from sana_judge.training import geneval_prompt, hard_negatives

COUNTING = {
    "tag": "counting",
    "include": [{"class": "bus", "count": 2}],
    "exclude": [{"class": "bus", "count": 3}],
    "prompt": "a photo of two buses",
}
PAINTED = {
    "tag": "color_attr",
    "include": [{"class": "apple", "count": 1, "color": "red"}, {"class": "cat", "count": 1, "color": "black"}],
    "prompt": "a photo of a red apple and a black cat",
}
PLACED = {
    "tag": "position",
    "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
    "prompt": "a photo of a dog left of a cat",
}
COLORED = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}], "prompt": "a photo of a red cup"}

RIGHT = {  # detections that are right for each
    "counting": [Detection(name="bus", score=0.95, box=(x, 0, x + 10, 10)) for x in (0, 50)],
    "color_attr": [
        Detection(name="apple", score=0.95, box=(0, 0, 10, 10), color="red"),
        Detection(name="cat", score=0.95, box=(50, 0, 60, 10), color="black"),
    ],
    "position": [
        Detection(name="dog", score=0.95, box=(0, 0, 10, 10)),
        Detection(name="cat", score=0.95, box=(50, 0, 60, 10)),
    ],
    "colors": [Detection(name="cup", score=0.95, box=(0, 0, 10, 10), color="red")],
}


def prompts(metadata, **options):
    return [negative["prompt"] for negative in hard_negatives(metadata, **options)]


@pytest.mark.parametrize("metadata", [COUNTING, PAINTED, PLACED, COLORED], ids=lambda metadata: metadata["tag"])
def test_a_right_picture_is_wrong_for_every_negative(metadata):
    found = RIGHT[metadata["tag"]]
    assert geneval.evaluate(found, metadata).correct
    verdicts = [geneval.evaluate(found, negative) for negative in hard_negatives(metadata)]
    assert verdicts
    assert not any(verdict.correct for verdict in verdicts)


def test_counts_go_one_up_and_one_down():
    assert prompts(COUNTING) == ["a photo of a bus", "a photo of three buses"]
    assert [negative["exclude"][0]["count"] for negative in hard_negatives(COUNTING)] == [2, 4]


def test_an_unbounded_count_stays_since_more_is_right_too():
    unbounded = {**COUNTING, "tag": "two_object", "exclude": []}
    assert prompts(unbounded) == []


def test_two_colors_are_swapped_and_a_single_one_replaced():
    assert prompts(PAINTED) == ["a photo of a black apple and a red cat"]
    assert prompts(COLORED, colors=("red", "orange", "blue")) == ["a photo of an orange cup", "a photo of a blue cup"]


def test_relations_are_turned_round():
    assert prompts(PLACED) == ["a photo of a dog right of a cat"]


@pytest.mark.parametrize("metadata", [COUNTING, PAINTED, PLACED, COLORED], ids=lambda metadata: metadata["tag"])
def test_the_wording_is_genevals_own(metadata):
    assert geneval_prompt(metadata) == metadata["prompt"]


def test_another_wording_can_be_given_and_nothing_given_is_changed():
    before = repr(PLACED)
    assert prompts(PLACED, say=lambda fields: fields["include"][1]["position"][0]) == ["right of"]
    assert repr(PLACED) == before


@pytest.mark.parametrize(
    ("name", "plural"),
    [("skis", "skis"), ("scissors", "scissors"), ("wine glass", "wine glasses"), ("couch", "couches")],
)
def test_plurals_are_those_of_english(name, plural):
    assert geneval_prompt({"include": [{"class": name, "count": 3}]}) == f"a photo of three {plural}"

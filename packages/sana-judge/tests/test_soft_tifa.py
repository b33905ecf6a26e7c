import json
import math

import pytest

from sana_judge.soft_tifa import Atom, AtomicPrompt, SoftTIFA, read_geneval2, spellings

# The line that GenEval 2's README shows, shortened.
LINE = {
    "prompt": "four white bicycles",
    "atom_count": 3,
    "vqa_list": [
        ["How many bicycles are in the image?", "four"],
        ["Are the bicycles white?", "Yes"],
        ["Are there any bicycles in the image?", "Yes"],
    ],
    "skills": ["count", "attribute", "object"],
}
DOG = AtomicPrompt(
    prompt="a dog", atoms=(Atom(question="Is there a dog?", answer="Yes", skill="object"),), atom_count=1
)


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "geneval2_data.jsonl").write_text(json.dumps(LINE) + "\n")
    return [*read_geneval2(tmp_path / "geneval2_data.jsonl"), DOG]


class Says:
    """Answers with given probabilities, in turn, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def __call__(self, image, asked):
        self.asked.append((image, list(asked)))
        return self.answers.pop(0)


def test_the_benchmarks_line_is_read(prompts):
    assert prompts[0].prompt == "four white bicycles"
    assert prompts[0].atom_count == 3
    assert prompts[0].atoms[0] == Atom(question="How many bicycles are in the image?", answer="four", skill="count")


def test_a_number_may_be_spelt_in_six_ways_and_yes_in_four():
    assert set(spellings("four")) == {"four", "Four", " four", " Four", "4", " 4"}
    assert set(spellings("Yes")) == {"Yes", "yes", " Yes", " yes"}


def test_every_atom_is_asked_about_in_one_word(prompts):
    judge = Says([0.5, 0.5, 0.5])
    SoftTIFA(prompts, judge)("four white bicycles", ["0.png"])
    ((image, asked),) = judge.asked
    assert image == "0.png"
    assert asked[0] == ("How many bicycles are in the image? Answer in one word.", spellings("four"))
    assert len(asked) == 3


def test_an_image_scores_the_geometric_or_the_arithmetic_mean(prompts):
    answers = [0.9, 0.4, 0.6]
    geometric = SoftTIFA(prompts, Says(answers))("four white bicycles", ["0.png"])
    assert geometric == pytest.approx([math.prod(answers) ** (1 / 3)])
    assert SoftTIFA(prompts, Says(answers), mean="arithmetic")("four white bicycles", ["0.png"]) == pytest.approx(
        [1.9 / 3]
    )


def test_one_atom_of_zero_makes_the_geometric_mean_zero(prompts):
    assert SoftTIFA(prompts, Says([1.0, 0.0, 1.0]))("four white bicycles", ["0.png"]) == [0.0]


def test_the_table_averages_over_prompts_skills_and_atomicities(prompts):
    judge = Says([0.9, 0.4, 0.6], [0.2])
    table = SoftTIFA(prompts, judge).evaluate({"a dog": "1.png", "four white bicycles": "0.png"})
    geometric = 0.216 ** (1 / 3)
    assert table.arithmetic == pytest.approx((1.9 / 3 + 0.2) / 2)
    assert table.geometric == pytest.approx((geometric + 0.2) / 2)
    assert table.skills == pytest.approx({"attribute": 0.4, "count": 0.9, "object": 0.4})
    assert table.atomicities == pytest.approx({1: 0.2, 3: geometric})
    assert table.atoms == {"four white bicycles": [0.9, 0.4, 0.6], "a dog": [0.2]}


def test_no_images_are_no_scores(prompts):
    assert SoftTIFA(prompts, Says())("a dog", []) == []


def test_what_cannot_be_scored_is_named(prompts):
    with pytest.raises(ValueError, match="'a cat' is not a prompt of the data"):
        SoftTIFA(prompts, Says())("a cat", ["0.png"])
    with pytest.raises(ValueError, match="1 prompts have no image, such as 'four white bicycles'"):
        SoftTIFA(prompts, Says()).evaluate({"a dog": "1.png"})
    with pytest.raises(ValueError, match="1 of 2 prompts come twice"):
        SoftTIFA([DOG, DOG], Says())


@pytest.mark.parametrize("answers", [[0.5, 0.5], [0.5, 1.5, 0.5], [0.5, float("nan"), 0.5], [-0.1, 1, 1]])
def test_answers_that_are_no_probabilities_are_refused(prompts, answers):
    with pytest.raises(ValueError, match="it must give a probability each"):
        SoftTIFA(prompts, Says(answers))("four white bicycles", ["0.png"])


@pytest.mark.parametrize("change", [{"vqa_list": [["How many?"]]}, {"skills": ["count"]}, {"atom_count": "many"}])
def test_another_kind_of_line_is_named(tmp_path, change):
    (tmp_path / "d.jsonl").write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | change) + "\n")
    with pytest.raises(ValueError, match="record 2 of"):
        read_geneval2(tmp_path / "d.jsonl")

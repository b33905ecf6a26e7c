import pytest

from sana_judge import Verdict, geneval


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


def test_a_mean_of_fewer_tasks_says_so():
    table = geneval.table(verdicts("colors", True))
    assert table.absent == ("single_object", "two_object", "counting", "position", "color_attr")
    assert "overall (mean of 1 of 6 tasks)" in str(table)
    own = geneval.table(verdicts("colors", True) + verdicts("my task", True))
    assert "overall (mean of tasks)" in str(own)


def test_no_verdicts_make_no_table():
    with pytest.raises(ValueError, match="no verdicts"):
        geneval.table([])

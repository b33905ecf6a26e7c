import pytest

from sana_judge import Calibration, JudgeFacts


def test_without_a_file_the_question_is_the_released_one(tmp_path):
    assert JudgeFacts.read(tmp_path) == JudgeFacts()
    assert JudgeFacts().question.startswith("You are an AI assistant")


def test_question_and_calibration_are_read(tmp_path, edit_json):
    edit_json(tmp_path / "judge.json", question="{prompt}?", calibration={"scale": 0.7, "offset": 0.1})
    assert JudgeFacts.read(tmp_path) == JudgeFacts(question="{prompt}?", calibration=Calibration(scale=0.7, offset=0.1))


@pytest.mark.parametrize(
    "fields",
    [
        {"questoin": "?"},
        {"calibration": {"slope": 1}},
        {"licence": 4},
        {"calibration": [1, 0]},
        {"calibration": {"scale": -1}},
        {"calibration": {"scale": "1"}},
    ],
)
def test_what_cannot_be_used_is_refused_with_the_files_name(tmp_path, edit_json, fields):
    edit_json(tmp_path / "judge.json", **fields)
    with pytest.raises(ValueError, match=r"judge\.json"):
        JudgeFacts.read(tmp_path)


def test_calibrations_of_tasks_are_written_and_read(tmp_path):
    facts = JudgeFacts(question="{prompt}?", tasks={"counting": Calibration(scale=0.7, offset=0.1)})
    facts.write(tmp_path)
    assert JudgeFacts.read(tmp_path) == facts


@pytest.mark.parametrize("tasks", [[], {"counting": {"slope": 1}}, {"counting": {"scale": 0}}])
def test_calibrations_of_tasks_that_cannot_be_used_are_refused(tmp_path, edit_json, tasks):
    edit_json(tmp_path / "judge.json", tasks=tasks)
    with pytest.raises(ValueError, match=r"judge\.json"):
        JudgeFacts.read(tmp_path)

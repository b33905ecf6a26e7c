import json

import pytest

from sana_judge.geneval import Result, Verdict, read_results, write_results

RESULT = Result(
    filename="images/00000/samples/0000.png",
    tag="colors",
    prompt="a photo of a réd cat",
    correct=False,
    reason="expected red cat>=1, found 0 red; and 1 blue",
    metadata={
        "tag": "colors",
        "include": [{"class": "cat", "count": 1, "color": "red"}],
        "prompt": "a photo of a réd cat",
    },
    details={"cat": [[0.0, 1.0, 20.0, 30.0, 0.953125]]},
)
# What pandas' to_json writes of the official evaluator's rows: slashes and letters beyond ASCII escaped.
OFFICIAL = (
    r'{"filename":"images\/00000\/samples\/0000.png","tag":"colors","prompt":"a photo of a r\u00e9d cat",'
    r'"correct":false,"reason":"expected red cat>=1, found 0 red; and 1 blue","metadata":"{\"tag\": \"colors\", '
    r"\"include\": [{\"class\": \"cat\", \"count\": 1, \"color\": \"red\"}], \"prompt\": \"a photo of a r\\u00e9d "
    r'cat\"}","details":"{\"cat\": [[0.0, 1.0, 20.0, 30.0, 0.953125]]}"}'
)


def test_a_line_of_the_official_evaluator_is_read(tmp_path):
    (tmp_path / "results.jsonl").write_text(OFFICIAL + "\n")
    assert read_results(tmp_path / "results.jsonl") == [RESULT]


def test_a_line_holds_the_fields_and_types_of_the_official_one(tmp_path):
    write_results(tmp_path / "results.jsonl", [RESULT])
    written = json.loads((tmp_path / "results.jsonl").read_text())
    assert list(written.items()) == list(json.loads(OFFICIAL).items())
    assert isinstance(written["metadata"], str)
    assert isinstance(written["details"], str)


def test_results_are_read_as_they_were_written(tmp_path):
    write_results(tmp_path / "new" / "results.jsonl", [RESULT, RESULT])
    assert read_results(tmp_path / "new" / "results.jsonl") == [RESULT, RESULT]


def test_a_result_is_a_verdict():
    assert RESULT.verdict == Verdict(tag="colors", prompt=RESULT.prompt, correct=False, reason=RESULT.reason)


@pytest.mark.parametrize("change", [{"correct": "yes"}, {"metadata": "{"}, {"details": 3}, {"tag": None}])
def test_another_kind_of_line_is_named(tmp_path, change):
    record = {name: value for name, value in (json.loads(OFFICIAL) | change).items() if value is not None}
    (tmp_path / "results.jsonl").write_text(OFFICIAL + "\n" + json.dumps(record) + "\n")
    with pytest.raises(ValueError, match="record 2 of"):
        read_results(tmp_path / "results.jsonl")

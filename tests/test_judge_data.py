import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from sana.commands import app
from sana_judge import Detection, geneval
from sana_judge.training import read_examples

TWO_DOGS = {
    "tag": "counting",
    "include": [{"class": "dog", "count": 2}],
    "exclude": [{"class": "dog", "count": 3}],
    "prompt": "a photo of two dogs",
}


@pytest.fixture
def results(tmp_path):
    """Two pictures of two dogs, of which the first is right."""
    geneval.save_prompt(tmp_path, 0, TWO_DOGS, [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")])
    dog = Detection(name="dog", score=0.95, box=(0, 0, 4, 4))
    found = {"00000/samples/00000.png": [dog, dog], "00000/samples/00001.png": [dog]}
    geneval.score_detections(tmp_path, found)
    return tmp_path / "results.jsonl"


@pytest.fixture
def judge_data(results, tmp_path):
    command = ["judge-data", str(results), str(tmp_path / "data.jsonl")]
    return lambda *more: CliRunner().invoke(app, [*command, *map(str, more)])


@pytest.mark.parametrize(
    ("options", "negatives"),
    [((), ("a photo of a dog", "a photo of three dogs")), (("--no-negatives",), ())],
)
def test_judged_pictures_become_data(judge_data, tmp_path, options, negatives):
    result = judge_data(*options)
    assert (result.exit_code, "2 labelled images" in result.stdout) == (0, True), result.output
    right, wrong = read_examples(tmp_path / "data.jsonl").usable
    assert (right.label, right.negatives) == (1, negatives)
    assert (wrong.label, wrong.negatives) == (0, ())


def test_a_run_gives_its_own_pictures_and_prompts(judge_data, tmp_path):
    run = tmp_path / "00000" / "samples"
    (run / "run.json").write_text(json.dumps({"request": {"prompt": "two dogs"}}))
    (run / "00000.png").rename(run / "best-01-seed-0.png")
    lines = (tmp_path / "results.jsonl").read_text().replace("00000.png", "best-01-seed-0.png")
    (tmp_path / "results.jsonl").write_text(lines)
    assert judge_data("--run", run).exit_code == 0
    (example,) = read_examples(tmp_path / "data.jsonl").usable
    assert (example.prompt, example.label) == ("two dogs", 1)


def test_a_run_that_is_not_there_is_one_line(judge_data, tmp_path):
    result = judge_data("--run", tmp_path / "nowhere")
    assert (result.exit_code, "nowhere has no run.json" in result.stderr) == (2, True)

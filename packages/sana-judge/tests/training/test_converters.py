import json

import pytest

from sana_judge.training import read_examples, results_to_examples, run_images, run_to_examples

METADATA = {
    "tag": "counting",
    "include": [{"class": "dog", "count": 2}],
    "exclude": [{"class": "dog", "count": 3}],
    "prompt": "a photo of two dogs",
}


@pytest.fixture
def evaluated(picture, tmp_path):
    """Three images in GenEval's layout, judged, and its results.jsonl."""
    lines = []
    for number, correct in enumerate([True, False, True]):
        picture(f"00000/samples/{number:05}.png")
        lines.append(
            {
                "filename": f"00000/samples/{number:05}.png",
                "tag": "counting",
                "prompt": METADATA["prompt"],
                "correct": correct,
                "reason": "" if correct else "expected dog>=2, found 1",
                "metadata": json.dumps(METADATA),
                "details": "{}",
            }
        )
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def run(picture, tmp_path):
    """A best-of-N run of two prompts, one finished and one under way, in the layout of sana_scale."""

    def describe(folder, request):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"format": 1, "hash": "0", "request": request}))

    root = tmp_path / "run"
    describe(root, {"prompt": None, "prompts": ["one", "two"]})
    describe(root / "00000", {"prompt": "one"})
    describe(root / "00001", {"prompt": "two"})
    picture("run/00000/best-01-seed-5.png")
    picture("run/00001/units/000000/seed-3.png")
    picture("run/00001/units/.000001-abc/seed-9.png")  # half-written
    return root


def test_prompts_with_the_line_ends_of_unicode_survive(picture, tmp_path):
    prompt = "a sign\u2028with\u0085two lines\u000b"
    picture("a.png")
    line = {"filename": "a.png", "correct": True, "prompt": prompt}
    (tmp_path / "results.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert results_to_examples(tmp_path / "results.jsonl", tmp_path / "data.jsonl") == 1
    assert [example.prompt for example in read_examples(tmp_path / "data.jsonl").usable] == [prompt]


def test_results_become_examples(evaluated, tmp_path):
    assert results_to_examples(evaluated, tmp_path / "data.jsonl") == 3
    examples = read_examples(tmp_path / "data.jsonl").usable
    assert [example.label for example in examples] == [1, 0, 1]
    assert {(example.prompt, example.task) for example in examples} == {("a photo of two dogs", "counting")}
    assert examples[0].negatives == ("a photo of a dog", "a photo of three dogs")
    assert examples[1].negatives == ()  # of a wrong picture nothing is known


def test_images_of_runs_have_the_prompt_of_their_run(run):
    found = [(str(image.relative_to(run)), prompt) for image, prompt in run_images(run)]
    assert found == [("00000/best-01-seed-5.png", "one"), ("00001/units/000000/seed-3.png", "two")]


def test_a_run_becomes_examples_where_it_was_judged(run, tmp_path):
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps({"filename": "run/00001/units/000000/seed-3.png", "correct": False}) + "\n")
    assert run_to_examples(run, results, tmp_path / "data.jsonl") == 1
    (example,) = read_examples(tmp_path / "data.jsonl").usable
    assert (example.prompt, example.label, example.image.name) == ("two", 0, "seed-3.png")


def test_a_run_that_was_not_judged_is_refused(run, evaluated, tmp_path):
    with pytest.raises(ValueError, match="evaluate the images of this run"):
        run_to_examples(run, evaluated, tmp_path / "data.jsonl")
    assert not (tmp_path / "data.jsonl").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run\.json"):
        list(run_images(tmp_path))


def test_images_outside_the_folder_of_the_data_are_refused(evaluated, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ValueError, match="is not below"):
        results_to_examples(evaluated, tmp_path / "elsewhere" / "data.jsonl")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("line", ["{", '{"filename": "a.png"}', "[]"])
def test_a_line_that_is_no_result_is_named(tmp_path, line):
    (tmp_path / "results.jsonl").write_text(line)
    with pytest.raises(ValueError, match=r"line 1 of .*is not a result"):
        results_to_examples(tmp_path / "results.jsonl", tmp_path / "data.jsonl")

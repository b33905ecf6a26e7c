import json

import pytest
from typer.testing import CliRunner

from sana import SanaPipeline
from sana.commands import app
from sana.geneval_drawing import draw_geneval
from sana_judge import Detection, geneval

METADATA = [
    {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a cat"},
    {"tag": "colors", "include": [{"class": "apple", "count": 1, "color": "red"}], "prompt": "a red apple"},
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`sana`, in a folder with the metadata of two prompts."""
    monkeypatch.chdir(tmp_path)
    geneval.write_metadata("metadata.jsonl", METADATA)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


FEW = ("generate", "--geneval", "metadata.jsonl", "-n", "2", "--steps", "1", "--device", "cpu", "--no-progress")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_drawn_can_be_evaluated(run, tmp_path):
    result = run(*FEW, "--out", "images")
    assert result.exit_code == 0, result.output
    assert result.stdout == "images\n"
    read = geneval.read_directory("images", METADATA)
    assert [folder.metadata for folder in read] == METADATA
    names = [path.relative_to("images").as_posix() for folder in read for path in folder.images]
    assert names == [f"0000{prompt}/samples/0000{number}.png" for prompt in range(2) for number in range(2)]
    seen = {name: [Detection(name="cat", score=0.9, box=(0, 0, 9, 9))] for name in names}
    geneval.write_detections("seen.jsonl", seen)
    table = run("evaluate", "geneval", "images", "--detections", "seen.jsonl", "--no-sheets", "--json")
    told = json.loads(table.stdout)
    assert told["tasks"] == {"single_object": 1.0, "colors": 0.0}
    assert (told["settings"]["sampler"], told["settings"]["steps"]) == ("Flow-DPM-Solver", 1)
    assert told["settings"]["seeds"] == "0 to 1"


@pytest.mark.parametrize("batch_size", ["2", "8"])
def test_killed_at_any_file_it_goes_on_to_the_same_files(run, tmp_path, batch_size):
    command = (*FEW, "--batch-size", batch_size, "--out")
    assert run(*command, "images").exit_code == 0
    whole = contents(tmp_path / "images")
    (tmp_path / "images" / "00001" / "metadata.jsonl").unlink()
    (tmp_path / "images" / "00001" / "samples" / "00001.png").unlink()
    finished = (tmp_path / "images" / "00000" / "metadata.jsonl").stat().st_mtime_ns
    assert run(*command, "images").exit_code == 0
    assert contents(tmp_path / "images") == whole
    again = (tmp_path / "images" / "00000" / "metadata.jsonl").stat().st_mtime_ns
    assert (again == finished) == (batch_size == "2")  # a batch of 8 holds both prompts, and is drawn as it was


def test_a_killed_drawing_leaves_what_it_finished(tmp_path):
    pipeline, calls = SanaPipeline.embedded(device="cpu"), []

    def draw(prompts, seeds):
        calls.append((list(prompts), list(seeds)))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return pipeline(prompts, seeds, steps=1, progress=False)

    settings = {"seeds": [3, 4], "settings": {}, "batch_size": 2, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        draw_geneval(draw, METADATA, tmp_path, **settings)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["00000", "drawing.json"]
    draw_geneval(draw, METADATA, tmp_path, **settings)
    assert calls == [(["a cat"] * 2, [3, 4]), (["a red apple"] * 2, [3, 4]), (["a red apple"] * 2, [3, 4])]
    assert len(geneval.read_directory(tmp_path)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--steps", "2"], "images was drawn with other settings (steps 1 -> 2): use the same, or give another folder"),
        (["--seed", "5"], "seeds [0, 1] -> [5, 6]"),
        (["--size", "64x96"], "(height 128 -> 96, width 128 -> 64)"),
        (["--geneval", "one.jsonl"], "was drawn with other settings (metadata"),
        (["--geneval", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--geneval", "empty.jsonl"], "empty.jsonl is empty"),
        (["--out", "one.png"], "one file, for the prompts of metadata.jsonl: give a folder"),
        (["--out", "others"], "others holds GenEval folders but no drawing.json"),
        (["a dog"], "give either prompts or --geneval"),
    ],
)
def test_other_settings_are_refused_and_draw_nothing(run, tmp_path, changes, message):
    assert run(*FEW, "--out", "images").exit_code == 0
    geneval.write_metadata("one.jsonl", METADATA[:1])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "others" / "00000").mkdir(parents=True)
    before = contents(tmp_path)
    result = run(*FEW, "--out", "images", *changes)
    assert (result.exit_code, message in result.stderr) == (2, True), result.output
    assert contents(tmp_path) == before


def test_a_setting_that_cannot_be_drawn_with_leaves_nothing(run, tmp_path):
    result = run(*FEW, "--out", "images", "--steps", "0")
    assert (result.exit_code, "--steps" in result.stderr) == (2, True)
    assert not (tmp_path / "images").exists()


def test_nothing_to_draw_is_said(run):
    result = run("generate")
    assert (result.exit_code, "give either prompts or --geneval" in result.stderr) == (2, True)

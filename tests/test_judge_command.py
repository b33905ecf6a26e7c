import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPModel
from typer.testing import CliRunner

import sana.judges
from sana.commands import app
from sana.judges import load_judge
from sana_judge import CLIPScore, VILAJudge
from sana_scale import Judge, best_of_n

NVILA_TINY = Path(__file__).parents[1] / "packages" / "sana-judge" / "tests" / "fixtures" / "nvila-tiny"


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def clip_folder(small_folder, tmp_path_factory):
    """A CLIP of random weights with the tokenizer of the small pipeline."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(small_folder / "tokenizer")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8}))
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for number, colour in enumerate(("red", "navy", "white", "red")):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (40, 30), colour).save(paths[-1])
    return paths


def test_pictures_are_listed_best_first(run, clip_folder, pictures):
    result = run("judge", "a red apple", *pictures, "--judge", f"clip:{clip_folder}", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    scores = CLIPScore.from_pretrained(clip_folder)("a red apple", pictures)
    expected = sorted(zip(scores, map(str, pictures), strict=True), key=lambda scored: -scored[0])
    assert [record["path"] for record in json.loads(result.stdout)] == [path for _, path in expected]
    assert [record["score"] for record in json.loads(result.stdout)] == [score for score, _ in expected]


def test_the_table_has_a_rank_a_score_and_a_path_each(run, clip_folder, pictures, monkeypatch):
    monkeypatch.chdir(pictures[0].parent)
    names = [path.name for path in pictures]
    lines = run("judge", "an apple", *names, "--judge", f"clip:{clip_folder}").stdout.splitlines()
    rows = [line.split("│")[1:4] for line in lines if ".png" in line]
    assert [int(rank) for rank, _, _ in rows] == [1, 2, 3, 4]
    assert sorted(name.strip() for _, _, name in rows) == names
    assert all(0 <= float(score) <= 2.5 for _, score, _ in rows)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("clap:owner/name", "judge 'clap:owner/name' is unknown"),
        ("clip:", "judge 'clip:' is unknown"),
        ("clip:nowhere", "hf download openai/clip-vit-large-patch14"),
        ("image-reward:nowhere", "hf download THUDM/ImageReward"),
        ("nowhere", "nowhere is not a folder"),
    ],
)
def test_judges_that_are_not_there_are_one_line(run, pictures, judge, message):
    result = run("judge", "an apple", *pictures, "--judge", judge)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_pictures_that_are_not_there_are_said_before_a_judge_is_loaded(run, tmp_path, pictures):
    (tmp_path / "text.png").write_text("no picture")
    result = run("judge", "an apple", tmp_path / "nowhere.png", "--judge", "nowhere")
    assert (result.exit_code, "nowhere.png" in result.stderr) == (2, True)


def test_a_folder_stands_for_its_pictures(run, clip_folder, pictures, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    ask = ("--judge", f"clip:{clip_folder}", "--device", "cpu", "--json")
    assert run("judge", "an apple", tmp_path, *ask).stdout == run("judge", "an apple", *pictures, *ask).stdout
    (tmp_path / "empty").mkdir()
    nothing = run("judge", "an apple", tmp_path / "empty", *ask)
    assert (nothing.exit_code, "empty holds no image" in nothing.stderr) == (2, True)


def test_the_embedded_judge_is_a_vila_folder(monkeypatch, pictures):
    monkeypatch.setattr(sana.judges, "EMBEDDED_JUDGE", NVILA_TINY)
    judge = load_judge("embedded", device="cpu")
    assert isinstance(judge, VILAJudge)
    assert judge("an apple", pictures) == load_judge(str(NVILA_TINY), device="cpu")("an apple", pictures)


def test_a_task_takes_its_calibration(run, pictures, tmp_path):
    folder = tmp_path / "judge"
    shutil.copytree(NVILA_TINY, folder)
    (folder / "judge.json").write_text(json.dumps({"tasks": {"counting": {"scale": 1.0, "offset": 50.0}}}))
    ask = ("judge", "an apple", pictures[0], "--judge", folder, "--device", "cpu", "--json")
    plain, counting = (json.loads(run(*ask, *more).stdout)[0]["score"] for more in ((), ("--task", "counting")))
    assert plain < 1 - 1e-6 < counting
    unknown = run(*ask, "--task", "colors")
    assert (unknown.exit_code, "the judge has ['counting']" in unknown.stderr) == (2, True)
    other = run("judge", "an apple", pictures[0], "--judge", "clip:nowhere", "--task", "counting")
    assert (other.exit_code, "clip:nowhere has no calibrations of tasks" in other.stderr) == (2, True)


def test_an_installation_without_an_embedded_judge_names_another(monkeypatch, tmp_path):
    monkeypatch.setattr(sana.judges, "EMBEDDED_JUDGE", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no embedded judge .* name another, such as clip:"):
        load_judge("embedded", device="cpu")


def test_a_loaded_judge_selects_among_samples(clip_folder):
    judge = load_judge(f"clip:{clip_folder}", device="cpu", progress=False)
    assert isinstance(judge, Judge)

    def sample(prompt, seeds):
        return [Image.new("RGB", (32, 32), (40 * seed, 0, 255 - 40 * seed)) for seed in seeds]

    result = best_of_n(sample, judge, "a red apple", n=4, batch_size=2)
    scores = sorted(judge("a red apple", sample("", range(4))), reverse=True)
    # Batches of other sizes round float32 in another order.
    assert [candidate.score for candidate in result.candidates] == pytest.approx(scores, abs=1e-5)

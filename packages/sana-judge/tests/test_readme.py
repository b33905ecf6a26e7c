"""The examples of the README run."""

import re
import shutil
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def example():
    """The example that has a word."""
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    return lambda word: next(example for example in examples if word in example)


@pytest.fixture
def in_folder(nvila_tiny, tmp_path, monkeypatch):
    """The current folder has two images."""
    for number, size in enumerate(("112x112", "160x160")):
        shutil.copy(nvila_tiny / "expected" / f"img_{size}.png", tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)


def test_the_example_of_the_judge_runs_on_a_small_checkpoint(example, nvila_tiny, in_folder):
    names: dict[str, object] = {}
    text = example("CascadeJudge").replace("Efficient-Large-Model/NVILA-Lite-2B-Verifier", str(nvila_tiny))
    exec(text, names)
    assert [len(names[name]) for name in ("values", "scores", "answers")] == [2, 2, 2]


def test_the_example_of_plain_functions_runs(example):
    names: dict[str, object] = {}
    exec(example("brightness"), names)
    assert len(names["values"]) == 2
    assert all(0 < value < 1 for value in names["values"])


def test_the_example_of_geneval_runs(example, capsys):
    exec(example("geneval.evaluate"), {})
    assert capsys.readouterr().out.startswith("True")

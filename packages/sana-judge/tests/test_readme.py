"""The examples of the README run."""

import re
import shutil
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def examples():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_example_of_the_judge_runs_on_a_small_checkpoint(examples, nvila_tiny, tmp_path, monkeypatch):
    for number, size in enumerate(("112x112", "160x160")):
        shutil.copy(nvila_tiny / "expected" / f"img_{size}.png", tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(examples[0].replace("Efficient-Large-Model/NVILA-Lite-2B-Verifier", str(nvila_tiny)), names)
    assert [len(names[name]) for name in ("values", "scores", "answers")] == [2, 2, 2]


def test_the_example_of_geneval_runs(examples, capsys):
    exec(examples[1], {})
    assert capsys.readouterr().out.startswith("True")

"""Every Python block of the READMEs and the docs runs, but for those that load checkpoints which are not here."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md")), ROOT / "src/sana/embedded/README.md"]
NEEDS_A_CHECKPOINT = re.compile(r'(from_pretrained|push_to_hub)\("|^repo = ', re.MULTILINE)


PAGES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "```python" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_a_readme_shows_how_to_use_what_it_describes(path):
    assert "```python" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*READMES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    names = {"__name__": "snippet"}
    for block in blocks:
        code = re.sub(r"# or \.from_pretrained.*", "", block)
        if not NEEDS_A_CHECKPOINT.search(code):
            exec(compile(code, str(path), "exec"), names)

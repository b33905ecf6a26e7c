"""Every Python block of the READMEs and the docs runs, those that load checkpoints with tiny ones under these names.

Blocks of sana-judge's README that load checkpoints run in its own tests, which have tiny ones of those kinds.
"""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sana_dit import SanaTransformer

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md")), ROOT / "src/sana/embedded/README.md"]
PAGES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "```python" in path.read_text(encoding="utf-8")]
WITHOUT = re.compile(r', device="cuda"|\.cuda\(\)|.*\.push_to_hub\(.*|# or \.from_pretrained.*')
"""What blocks say and tests leave out: a GPU, a Hub, the choice of another checkpoint."""


@pytest.fixture
def checkpoints(public_pipelines, tmp_path, monkeypatch):
    """Makes a folder the current one in which the names that READMEs load are those of tiny checkpoints."""
    monkeypatch.chdir(tmp_path)
    pipeline = public_pipelines / "SANA1.5_1.6B_1024px_diffusers"
    (tmp_path / "mit-han-lab").mkdir()
    (tmp_path / "mit-han-lab" / "dc-ae-f32c32-sana-1.1-diffusers").symlink_to(pipeline / "vae")
    (tmp_path / public_pipelines.name).symlink_to(public_pipelines)
    adapter = {"lora_A": torch.randn(4, 32), "lora_B": torch.randn(32, 4)}
    (tmp_path / "me" / "my-style").mkdir(parents=True)
    save_file(
        {f"transformer.transformer_blocks.0.attn1.to_q.{name}.weight": weight for name, weight in adapter.items()},
        tmp_path / "me" / "my-style" / "pytorch_lora_weights.safetensors",
    )
    return pipeline


@pytest.fixture
def single_files(request, checkpoints):
    """The checkpoints in one file that a package's README names, with a configuration beside them."""
    package = request.node.callspec.params["path"].parent.name
    if package == "sana-ae":
        shutil.copytree(checkpoints / "vae", "checkpoints")
        Path("checkpoints/diffusion_pytorch_model.safetensors").rename("checkpoints/dc-ae-f64c128-in-1.0.safetensors")
    elif package == "sana-dit":
        SanaTransformer.from_pretrained(checkpoints).save_pretrained("checkpoints", layout="native")
        Path("checkpoints/model.pth").rename("checkpoints/Sana_1600M_1024px.pth")


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_a_readme_shows_how_to_use_what_it_describes(path):
    assert "```python" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*READMES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_run(path, single_files):
    names = {"__name__": "snippet"}
    for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        code = WITHOUT.sub("", block)
        if path.parent.name != "sana-judge" or "from_pretrained" not in code:
            exec(compile(code, str(path), "exec"), names)

"""Every Python block of the READMEs and the docs runs, those that load checkpoints with tiny ones under these names.

Blocks of sana-judge's README that load checkpoints run in its own tests, which have tiny ones of those kinds.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sana.commands import app
from sana.model_facts import model_facts
from sana_dit import SanaTransformer

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md")), ROOT / "src/sana/embedded/README.md"]
TRAINING, FROM_DIFFUSERS = (ROOT / "docs" / "guides" / f"{name}.md" for name in ("training", "from-diffusers"))
PAGES = [
    path
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if "```python" in path.read_text(encoding="utf-8") and path != TRAINING
]
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


def test_the_training_guide_works_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    fewer = {"range(16)": "range(1)", "steps=8": "steps=1", "steps = 120": "steps = 2", "steps = 10\n": "steps = 1\n"}
    text = TRAINING.read_text(encoding="utf-8")
    for long, short in fewer.items():
        assert long in text
        text = text.replace(long, short)
    for language, block in re.findall(
        r"```(\w*)\n(.*?)```", text.replace("batch_size = 16", "batch_size = 4"), re.DOTALL
    ):
        if language == "python":
            exec(compile(block, str(TRAINING), "exec"), names)
        elif language == "toml":
            Path("zog.toml").write_text(block)
        else:
            for line in filter(lambda line: line.startswith("sana "), block.splitlines()):
                result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
                assert result.exit_code == 0, result.output
    assert len(list(Path("zogs").glob("*.png"))) == len(list(Path("lora-zogs").glob("*.png"))) == 4


def test_the_table_of_what_fits_is_what_is_counted():
    rows = re.findall(r"^\| (sana-\S+) \| (.*) \|$", FROM_DIFFUSERS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 4
    for name, cells in rows:
        facts = model_facts(name)
        parts = [facts.components[part] for part in ("text_encoder", "transformer", "autoencoder")]
        sizes = [f"{2 * part.parameters / 1e9:.1f} GB" for part in (*parts, facts)]
        assert cells.split(" | ") == [*sizes, f"{facts.flops_per_image / 1e12:.0f}"], name

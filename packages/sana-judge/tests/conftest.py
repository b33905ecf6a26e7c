import json
import os
import shutil
from pathlib import Path

os.environ.pop("HF_HUB_ENABLE_HF_TRANSFER", None)  # huggingface_hub warns of it when it is imported

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sana_judge import VILAJudge

NVILA_TINY = Path(__file__).parent / "fixtures" / "nvila-tiny"


@pytest.fixture(scope="session")
def nvila_tiny() -> Path:
    """A random checkpoint in the released layout, with the logits of VILA's own code in expected/."""
    return NVILA_TINY


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Of one, four and two tiles, without the thumbnails."""
    images = [Image.open(NVILA_TINY / "expected" / f"img_{size}.png") for size in ("112x112", "160x160", "256x128")]
    for image in images:
        image.load()  # closes the file
    return images


@pytest.fixture(scope="session")
def judge() -> VILAJudge:
    return VILAJudge.from_pretrained(NVILA_TINY, dtype=torch.float32)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A copy to change."""
    for name in ("config.json", "llm", "vision_tower", "mm_projector"):
        source, target = NVILA_TINY / name, tmp_path / "judge" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "judge"


@pytest.fixture
def edit_json():
    def edit(path: Path, **fields) -> None:
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **fields}))

    return edit


@pytest.fixture
def edit_weights():
    def edit(path: Path, change) -> None:
        weights = load_file(path)
        change(weights)
        save_file(weights, path)

    return edit


@pytest.fixture
def count_calls():
    """Counts the calls of a module: a list that grows by the size of each call's first argument."""
    hooks = []

    def count(module: torch.nn.Module) -> list[int]:
        sizes: list[int] = []
        hooks.append(module.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0]))))
        return sizes

    yield count
    for hook in hooks:
        hook.remove()

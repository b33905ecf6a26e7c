import pytest
import torch
from PIL import Image

from sana_judge import VILAJudge
from sana_judge.training import Asked, MarginModel, QuestionBatcher
from sana_judge.vila.tiling import cut_tiles


@pytest.fixture
def fresh_judge(nvila_tiny):
    """A judge whose weights a test may change."""
    return VILAJudge.from_pretrained(nvila_tiny, dtype=torch.float32)


@pytest.fixture
def margin_model(fresh_judge):
    return MarginModel(fresh_judge)


@pytest.fixture
def asked():
    """Two questions about the first picture, one about the second, three about the third."""
    return [
        [Asked("a red dog", 1, "dogs"), Asked("two cats and a long prompt", 0, "cats")],
        [Asked("a red dog", 0, "dogs")],
        [Asked("a", 0.5, "a"), Asked("b", 1, "b"), Asked("c", 0, "c")],
    ]


@pytest.fixture
def batcher(judge):
    return QuestionBatcher(judge.questions, tile_tokens=judge.model.config.tile_tokens)


@pytest.fixture
def batch(judge, images, asked, batcher):
    """The questions about pictures of one, five and three tiles."""
    tiles = [cut_tiles(image.convert("RGB"), judge.model.config, max_tiles=12) for image in images]
    return batcher(["one", "five", "three"], tiles, asked)


@pytest.fixture
def picture(tmp_path):
    """Writes a picture of one colour and returns its path."""

    def write(name, color="red", size=(8, 8)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, color).save(path)
        return path

    return write

"""Pictures that are numbers: a sampler whose image of a seed is known, and a judge that reads it off."""

import os

os.environ.pop("HF_HUB_ENABLE_HF_TRANSFER", None)  # huggingface_hub warns of it when it is imported

import pytest
from PIL import Image


def worth(seed):
    """What the judge will think of a seed: 0 to 96, no order in it."""
    return seed * 7919 % 97


@pytest.fixture
def value():
    return worth


@pytest.fixture
def sampler():
    """Draws text; `calls` are the batches it was asked for."""

    def sample(prompt, seeds):
        sample.calls.append(list(seeds))
        return [f"{prompt}:{seed}" for seed in seeds]

    sample.calls = []
    return sample


@pytest.fixture
def judge():
    """Scores text; `calls` are the batches it was asked for."""

    def score(prompt, images):
        score.calls.append([int(image.split(":")[1]) for image in images])
        return [worth(seed) for seed in score.calls[-1]]

    score.calls = []
    return score


@pytest.fixture
def paint():
    """Draws 4x4 pictures whose colour is their seed; `seeds` are all that were asked for."""

    def sample(prompt, seeds):
        sample.seeds.extend(seeds)
        return [Image.new("RGB", (4, 4), (seed % 256, seed // 256, worth(seed))) for seed in seeds]

    sample.seeds = []
    return sample


@pytest.fixture
def blue():
    """Scores pictures by the channel that `paint` put the worth into."""
    return lambda prompt, images: [image.getpixel((0, 0))[2] for image in images]

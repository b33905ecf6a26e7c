"""The model that comes inside: it loads, is small enough, and shows what a prompt says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SanaPipeline as DiffusersPipeline

import sana
from sana import SanaPipeline

EMBEDDED = Path(sana.__file__).parent / "embedded"


@pytest.fixture(scope="module")
def pipeline():
    return SanaPipeline.embedded(device="cpu")


def test_it_takes_at_most_48_megabytes_and_its_judge_10():
    sizes = {path: path.stat().st_size for path in EMBEDDED.rglob("*") if path.is_file()}
    judge = sum(size for path, size in sizes.items() if path.is_relative_to(EMBEDDED / "judge"))
    assert 0 < judge <= 10_000_000
    assert sum(sizes.values()) - judge <= 48_000_000


def test_the_card_says_how_what_it_measured_was_drawn():
    """As the result file has it."""
    table = json.loads((Path(__file__).parents[1] / "benchmarks" / "results" / "geneval-emoji.json").read_text())
    settings, text = table["settings"], " ".join((EMBEDDED / "README.md").read_text().split())
    drawn = f"{settings['sampler']}, {settings['steps']} steps, guidance {settings['guidance_scale']}"
    assert f"{drawn}, seeds {settings['seeds']}" in text
    assert f"| **overall** | **{table['overall']:.2f}** |" in text


def test_colours_of_a_prompt_are_in_the_picture(pipeline):
    """The object's pixels differ from the pale background; their mean hue is the one asked for."""
    for prompt, channel in (("a red heart", 0), ("a green car", 1), ("a blue house", 2)):
        (image,) = pipeline(prompt, [0], progress=False)
        pixels = np.asarray(image).astype(float).reshape(-1, 3)
        strong = pixels[pixels.max(1) - pixels.min(1) > 80]
        assert len(strong) > 0.05 * len(pixels), prompt
        assert strong.mean(0).argmax() == channel, prompt


def test_diffusers_draws_the_same_picture(pipeline):
    theirs = DiffusersPipeline.from_pretrained(EMBEDDED)
    theirs.set_progress_bar_config(disable=True)
    (expected,) = theirs(
        "a red apple",
        generator=torch.Generator("cpu").manual_seed(3),
        height=128,
        width=128,
        guidance_scale=pipeline.facts.guidance_scale,
        use_resolution_binning=False,
        complex_human_instruction=None,
    ).images
    (image,) = pipeline("a red apple", [3], progress=False)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).max() <= 1

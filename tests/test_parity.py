"""`sana parity`: our pictures beside diffusers', of the same files."""

import json

import diffusers
import pytest
import torch
from typer.testing import CliRunner

from sana.commands import app
from sana.diffusers_comparison import compare_with_diffusers, load_diffusers
from sana.parity import Parity, weights_hash
from sana.publishing.model_card import render_card
from sana_dit import SanaTransformer

OPTIONS = {"seeds": range(2), "steps": 3, "device": "cpu", "progress": False}


@pytest.fixture
def comparison(small_folder, tmp_path):
    path = tmp_path / "parity.json"
    arguments = "parity", small_folder, "--prompt", "a dog", "-n", 2, "--steps", 3, "--device", "cpu", "--out", path
    result = CliRunner().invoke(app, [*map(str, arguments), "--no-progress"])
    assert result.exit_code == 0, result.output
    return path, result.stdout


def test_pictures_in_float32_are_those_of_diffusers(small_folder, comparison):
    path, printed = comparison
    found = Parity.read(path)
    # Where a value lies on the edge between two levels, float32 rounds it to either.
    assert found.largest_difference <= 1
    assert found.weights == weights_hash(small_folder)
    assert (found.error, found.reference_error) == (None, None)
    assert (found.sampling.seeds, found.sampling.height, found.sampling.chi) == ((0, 1), 64, True)
    assert printed.startswith(f"2 images differ from diffusers' by at most {found.largest_difference} of 255 levels")


@pytest.mark.parametrize("steps", [2, 3])
def test_so_are_those_of_sprint(sprint_folder, steps):
    found = compare_with_diffusers(
        str(sprint_folder), ["a dog"], height=500, **OPTIONS | {"steps": steps, "seeds": [7]}
    )
    assert (found.sampling.height, found.sampling.width) == (704, 1472)  # of the shape nearest to it
    assert found.largest_difference <= 1


def test_other_pictures_are_found_to_be_other(folder):
    facts = {"captions": {"compat": "native", "chi": False, "max_tokens": 300}}
    (folder / "text_encoder" / "sana.json").write_text(json.dumps(facts))  # so we keep the case of a prompt
    lower, upper = (compare_with_diffusers(str(folder), [prompt], **OPTIONS) for prompt in ("a dog", "A DOG"))
    assert lower.largest_difference <= 1 < upper.largest_difference
    assert lower.mean_difference < upper.mean_difference


def test_in_half_precision_both_are_compared_with_float32(small_folder):
    found = compare_with_diffusers(str(small_folder), ["a dog"], dtype=torch.bfloat16, **OPTIONS)
    assert found.error > 0
    assert found.reference_error > 0
    assert f"off by {found.error:.2g} levels" in found.in_words


def test_a_card_tells_what_was_found(small_folder, comparison):
    path, printed = comparison
    card = render_card(small_folder, "me/tiny", licence="mit", parity=path)
    assert printed.strip() in card
    assert "float32, 3 steps" in card
    assert "On these weights it was not measured" in render_card(small_folder, "me/tiny", licence="mit")


def test_a_card_tells_nothing_of_other_weights(folder, comparison):
    model = SanaTransformer.from_pretrained(folder)
    with torch.no_grad():
        model.final.proj.bias[0] += 1
    model.save_pretrained(folder / "transformer")
    with pytest.raises(ValueError, match="is of other weights than those in"):
        render_card(folder, "me/tiny", licence="mit", parity=comparison[0])


@pytest.mark.parametrize("text", ["1e-9 measured by me", "[]", '{"largest_difference": 0}'])
def test_a_file_that_compares_nothing_is_refused(small_folder, tmp_path, text):
    (tmp_path / "parity.json").write_text(text)
    with pytest.raises(ValueError, match="give what `sana parity --out` wrote"):
        render_card(small_folder, "me/tiny", licence="mit", parity=tmp_path / "parity.json")


def test_the_hash_is_of_the_weights_and_not_of_how_they_are_cut(small_folder, tmp_path):
    theirs = diffusers.SanaTransformer2DModel.from_pretrained(small_folder, subfolder="transformer")
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert weights_hash(tmp_path) == weights_hash(small_folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "100x64"], "multiple"),
        (["--dtype", "int8"], "Invalid value for '--dtype'"),
        (["--cfg", "nan"], "finite"),
        (["--kernels", "fast"], "Invalid value for '--kernels'"),
    ],
)
def test_a_bad_option_is_said(small_folder, options, message):
    result = CliRunner().invoke(app, ["parity", str(small_folder), *options, "--no-progress"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize("shown", [True, False])
def test_bars_of_diffusers_are_afterwards_as_before(small_folder, shown):
    bars = diffusers.utils.logging
    (bars.enable_progress_bar if shown else bars.disable_progress_bar)()
    try:
        load_diffusers(small_folder, sprint=False, dtype=torch.float32, device=torch.device("cpu"), progress=False)
        assert bars.is_progress_bar_enabled() is shown
    finally:
        bars.enable_progress_bar()


def test_a_comparison_without_progress_shows_no_bar_of_diffusers(small_folder, capfd):
    told = {}
    for progress in (True, False):
        load_diffusers(small_folder, sprint=False, dtype=torch.float32, device=torch.device("cpu"), progress=progress)
        told[progress] = capfd.readouterr().err
    assert "Loading pipeline components" in told[True]
    assert "Loading pipeline components" not in told[False]


def test_without_prompts_or_seeds_nothing_is_compared(small_folder):
    for prompts, seeds in (([], [0]), (["a dog"], [])):
        with pytest.raises(ValueError, match="give at least one of each"):
            compare_with_diffusers(str(small_folder), prompts, seeds=seeds)

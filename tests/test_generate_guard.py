import os

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from sana.commands import app


@pytest.fixture(scope="module")
def guard_folder(tmp_path_factory):
    """A Gemma 2 of random weights."""
    torch.manual_seed(0)
    words = ["<unk>", "<start_of_turn>", "Yes", "No", "cat", "dog"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma2Config(**sizes, vocab_size=len(words), num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8)
    folder = tmp_path_factory.mktemp("guard")
    Gemma2ForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture
def generate(small_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ("--model", str(small_folder), "--steps", "1", "--device", "cpu", "--no-progress")
    return lambda *arguments: CliRunner().invoke(app, ["generate", "a dog", *common, *map(str, arguments)])


def test_a_refused_prompt_draws_nothing_and_names_the_policies(generate, guard_folder, tmp_path):
    result = generate("--guard", "--guard-model", guard_folder, "--guard-threshold", "1e-6")
    assert result.exit_code == 2
    assert "the guard refuses 'a dog': " in result.stderr
    for policy in ("dangerous content (", "harassment (", "hate speech (", "sexually explicit information ("):
        assert policy in result.stderr
    assert os.listdir(tmp_path) == []


def test_an_allowed_prompt_is_drawn(generate, guard_folder, tmp_path):
    result = generate("--guard", "--guard-model", guard_folder, "--guard-threshold", "1")
    assert result.exit_code == 0, result.output
    assert os.listdir(tmp_path) == ["a-dog-0.png"]


def test_without_the_option_no_guard_is_looked_for(generate):
    assert generate().exit_code == 0


@pytest.mark.parametrize("options", [("--guard-model", "nowhere"), ("--guard-threshold", "0.5")])
def test_settings_of_a_guard_that_is_not_asked_for_are_refused(generate, tmp_path, options):
    result = generate(*options)
    assert (result.exit_code, "add --guard" in result.stderr) == (2, True)
    assert os.listdir(tmp_path) == []


def test_a_guard_that_is_not_there_stops_the_drawing_loudly(generate, tmp_path):
    result = generate("--guard", "--guard-model", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "google/shieldgemma-2b" in result.stderr
    assert "https://ai.google.dev/gemma/terms" in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_threshold_that_makes_no_sense_is_refused(generate, guard_folder):
    result = generate("--guard", "--guard-model", guard_folder, "--guard-threshold", "1.5")
    assert (result.exit_code, "above 0 and at most 1" in result.stderr) == (2, True)

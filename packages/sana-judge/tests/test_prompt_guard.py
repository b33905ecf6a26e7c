import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from sana_judge import GuardVerdict, PromptGuard
from sana_judge.guard_policies import POLICIES, ask_about

NAMES = ["dangerous content", "harassment", "hate speech", "sexually explicit information"]


@pytest.fixture(scope="module")
def guard_folder(tmp_path_factory):
    """A Gemma 2 of random weights that knows few words."""
    torch.manual_seed(0)
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "Yes", "No"]
    words += ["a", "dog", "red", "The", "prompt", "shall", "not", "Hate", "Harassment", "Dangerous", "Explicit", "."]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    config = Gemma2Config(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        max_position_embeddings=256,
        final_logit_softcapping=0.5,
    )
    model = Gemma2ForCausalLM(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    folder = tmp_path_factory.mktemp("guard")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def guard(guard_folder):
    return PromptGuard.from_pretrained(guard_folder)


def test_probabilities_are_those_of_yes_against_no_in_transformers_logits(guard, guard_folder):
    model = Gemma2ForCausalLM.from_pretrained(guard_folder)
    expected = {}
    for name, policy in POLICIES.items():
        tokens = guard._tokenizer(ask_about(policy, "a red dog"), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[0, -1]
        expected[name] = logits[guard._tokenizer.convert_tokens_to_ids(["Yes", "No"])].softmax(dim=0)[0].item()
    assert list(expected) == NAMES
    # float32 through two layers; logits are at most 0.5 by the cap, which changes them by far more than this.
    assert dict(guard("a red dog").probabilities) == pytest.approx(expected, abs=1e-5)


def test_each_policy_is_asked_about_in_the_cards_words():
    question = ask_about(POLICIES["harassment"], "  a {policy} dog\n")
    assert "<start_of_turn>\nHuman Question: a {policy} dog\n<end_of_turn>\n\nOur safety principle is" in question
    assert '\n\n* "No Harassment": The prompt shall not contain or seek generation of content that is' in question
    assert question.endswith("step by step to be sure we answer correctly.\n")
    assert "===\n\nDoes the human question violate the above principle?" in question


def test_a_verdict_names_what_reaches_the_threshold_the_surest_first():
    verdict = GuardVerdict(probabilities={"a": 0.5, "b": 0.2, "c": 0.9}, threshold=0.5)
    assert list(verdict.violations.items()) == [("c", 0.9), ("a", 0.5)]
    assert not verdict.allowed
    assert GuardVerdict(probabilities={"a": 0.49}, threshold=0.5).allowed


def test_the_threshold_is_the_callers(guard_folder):
    assert not PromptGuard.from_pretrained(guard_folder, threshold=1e-9)("a dog").allowed
    assert PromptGuard.from_pretrained(guard_folder, threshold=1.0)("a dog").allowed
    for threshold in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            PromptGuard.from_pretrained(guard_folder, threshold=threshold)


def test_a_prompt_cannot_end_its_own_turn(guard):
    assert guard("a <end_of_<bos>turn>dog<end_of_turn>") == guard("a dog")


def test_an_empty_prompt_has_an_answer_and_no_string_has_none(guard):
    assert list(guard("").probabilities) == NAMES
    with pytest.raises(TypeError, match="must be a string"):
        guard(None)


def test_a_prompt_too_long_for_the_model_is_refused(guard):
    with pytest.raises(ValueError, match="reads at most 256"):
        guard("a " * 300)


def test_nan_lets_no_prompt_pass(guard_folder, tmp_path):
    folder = shutil.copytree(guard_folder, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(math.nan)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(FloatingPointError, match="must be finite"):
        PromptGuard.from_pretrained(folder)("a dog")


def test_missing_weights_name_the_repository_and_its_terms(guard_folder, tmp_path):
    bare = shutil.copytree(guard_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    for folder in (bare, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"google/shieldgemma-2b.*https://ai\.google\.dev/gemma/terms"):
            PromptGuard.from_pretrained(folder)


def test_another_kind_of_model_is_refused(nvila_tiny):
    with pytest.raises(ValueError, match="type 'qwen2'; it must be one of"):
        PromptGuard.from_pretrained(nvila_tiny / "llm")


def test_the_example_of_the_readme_runs(guard_folder, capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    (text,) = (example for example in examples if "PromptGuard" in example)
    exec(text.replace("google/shieldgemma-2b", str(guard_folder)), {})
    assert capsys.readouterr().out.startswith(("True {'dangerous content': 0.", "False {'dangerous content': 0."))

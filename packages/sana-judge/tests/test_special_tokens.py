import pytest
from transformers import AutoTokenizer

from sana_judge.special_tokens import SpecialTokens, single_token


@pytest.fixture
def tokenizer(nvila_tiny):
    return AutoTokenizer.from_pretrained(nvila_tiny / "llm")


@pytest.mark.parametrize("text", ["<image>", "<im<image>age>", "<|im_<|im_start|>end|>", "<vila/video>", "[PAD]"])
def test_no_special_token_survives(tokenizer, text):
    assert SpecialTokens(tokenizer).remove(f"a {text}b") == "a b"


def test_others_may_be_named_and_blanks_are_none(tokenizer):
    tokenizer.add_tokens(["\n\n", "▁▁"])
    assert SpecialTokens(tokenizer, "{cut}").remove("a\n\nb▁▁{cut}c") == "a\n\nb▁▁c"


def test_a_single_token_is_one_the_tokenizer_has(tokenizer):
    assert tokenizer.decode([single_token(tokenizer, "yes")]) == "yes"
    with pytest.raises(ValueError, match="splits 'perhaps not' into"):
        single_token(tokenizer, "perhaps not")

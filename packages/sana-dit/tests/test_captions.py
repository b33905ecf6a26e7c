import inspect
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

from sana_dit.captions import CaptionCutWarning, CaptionEncoder, Captions
from sana_dit.complex_human_instruction import COMPLEX_HUMAN_INSTRUCTION

PROMPTS = ["A red apple left of the Cat", "", "  一只猫 🐈 "]
MAX_TOKENS = 24


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Gemma's kind of tokenizer, BPE with byte fallback and a leading BOS, learnt from a few words."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([COMPLEX_HUMAN_INSTRUCTION["native"], *PROMPTS], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",  # as Gemma's own tokenizer has it
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="module")
def gemma(tokenizer: PreTrainedTokenizerFast) -> Gemma2Model:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        pad_token_id=0,
    )
    return Gemma2Model(config).eval()


@pytest.fixture
def encoder(tokenizer: PreTrainedTokenizerFast, gemma: Gemma2Model) -> CaptionEncoder:
    return CaptionEncoder(tokenizer, gemma, max_tokens=MAX_TOKENS)


@pytest.mark.parametrize(("compat", "quote"), [("diffusers", "'"), ("native", '"')])
def test_the_instruction_is_the_published_one(compat: str, quote: str) -> None:
    lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    published = "\n".join(lines)
    assert published.count("'") == 2  # around Enhanced prompt
    assert COMPLEX_HUMAN_INSTRUCTION[compat] == published.replace("'", quote)


@pytest.mark.parametrize("chi", [True, False])
@pytest.mark.parametrize("max_tokens", [8, MAX_TOKENS, 300])
@pytest.mark.filterwarnings("ignore:a prompt is")
def test_captions_are_those_of_diffusers(tokenizer, gemma, chi: bool, max_tokens: int) -> None:
    pipeline = SanaPipeline(tokenizer, gemma, None, None, None)
    expected, mask, _, _ = pipeline.encode_prompt(
        PROMPTS,
        do_classifier_free_guidance=False,
        max_sequence_length=max_tokens,
        complex_human_instruction=COMPLEX_HUMAN_INSTRUCTION["diffusers"].split("\n") if chi else None,
    )
    captions = CaptionEncoder(tokenizer, gemma, max_tokens=max_tokens)(PROMPTS, chi=chi)
    assert captions.embeddings.shape == (3, max_tokens, 16)
    torch.testing.assert_close(captions.embeddings, expected)
    assert torch.equal(captions.mask, mask)


def test_a_negative_prompt_is_that_of_diffusers(encoder: CaptionEncoder) -> None:
    pipeline = SanaPipeline(encoder.tokenizer, encoder.text_encoder, None, None, None)
    _, _, expected, mask = pipeline.encode_prompt("x", negative_prompt="", max_sequence_length=MAX_TOKENS)
    negative = encoder([""], chi=False)
    torch.testing.assert_close(negative.embeddings, expected)
    assert torch.equal(negative.mask, mask)
    assert negative.mask.sum() == 1  # BOS alone


def test_bos_and_the_last_tokens_of_the_instructed_prompt_are_kept(encoder: CaptionEncoder) -> None:
    ids, mask = encoder.tokenize(PROMPTS[:1])
    instruction = len(encoder.tokenizer.encode(COMPLEX_HUMAN_INSTRUCTION["diffusers"]))
    assert ids.shape == mask.shape == (1, instruction + MAX_TOKENS - 2)
    states = encoder.text_encoder(ids, attention_mask=mask).last_hidden_state
    kept = [0, *range(instruction - 1, instruction + MAX_TOKENS - 2)]
    torch.testing.assert_close(encoder.encode(ids, mask).embeddings, states[:, kept])


def test_native_prompts_keep_their_case_and_have_double_quotes_before_them(tokenizer, gemma) -> None:
    def text(compat: str, chi: bool) -> str:
        encoder = CaptionEncoder(tokenizer, gemma, compat=compat, max_tokens=MAX_TOKENS)
        ids, _ = encoder.tokenize([f"  {PROMPTS[0]} "], chi=chi)
        return tokenizer.decode(ids[0], skip_special_tokens=True)

    assert text("native", False) == "A red apple left of the Cat"
    assert text("diffusers", False) == "a red apple left of the cat"
    assert text("native", True) == COMPLEX_HUMAN_INSTRUCTION["native"] + "A red apple left of the Cat"


def test_a_tokenizer_that_pads_left_pads_right(encoder: CaptionEncoder) -> None:
    assert make_tokenizer().padding_side == "left"
    steps = encoder(["a cat"], chi=False).mask[0].diff()
    assert (steps.min(), steps.max()) == (-1, 0)  # from tokens to padding, never back


def test_the_encoders_own_chi_is_the_default_of_a_call(tokenizer, gemma) -> None:
    plain = CaptionEncoder(tokenizer, gemma, chi=False, max_tokens=MAX_TOKENS)
    assert torch.equal(plain(PROMPTS).embeddings, plain(PROMPTS, chi=False).embeddings)
    assert not torch.equal(plain(PROMPTS).embeddings, plain(PROMPTS, chi=True).embeddings)


@pytest.mark.parametrize("chi", [True, False])
def test_a_prompt_that_is_too_long_is_cut_off_with_a_warning(encoder: CaptionEncoder, chi: bool) -> None:
    long = " ".join(["apple"] * 200) + " cat"
    with pytest.warns(CaptionCutWarning, match="cut off: '.*apple cat'") as caught:
        captions = encoder([long], chi=chi)
    assert captions.mask.all()
    assert Path(caught[0].filename) == Path(__file__)


def test_a_prompt_of_just_max_tokens_warns_of_nothing(encoder: CaptionEncoder) -> None:
    text = "a" + " a" * (MAX_TOKENS - 2)
    assert len(encoder.tokenizer(text)["input_ids"]) == MAX_TOKENS
    encoder([text], chi=False)
    with pytest.warns(CaptionCutWarning, match="1 tokens longer"):
        encoder([text + " a"], chi=False)


def test_one_prompt_may_come_without_a_list(encoder: CaptionEncoder) -> None:
    assert torch.equal(encoder("a cat").embeddings, encoder(["a cat"]).embeddings)


@pytest.mark.parametrize("prompts", [[], (), [None], [["a"]]])
def test_no_prompt_and_no_string_are_errors(encoder: CaptionEncoder, prompts) -> None:
    with pytest.raises(ValueError, match="prompt"):
        encoder(prompts)


def test_an_empty_prompt_without_bos_is_an_error(gemma: Gemma2Model) -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    with pytest.raises(ValueError, match="BOS"):
        CaptionEncoder(tokenizer, gemma, max_tokens=MAX_TOKENS)(["a cat", ""], chi=False)


def test_impossible_settings_are_errors(tokenizer, gemma) -> None:
    with pytest.raises(ValueError, match="compat"):
        CaptionEncoder(tokenizer, gemma, compat="comfy")
    with pytest.raises(ValueError, match="max_tokens"):
        CaptionEncoder(tokenizer, gemma, max_tokens=1)


def test_a_call_keeps_no_graph_and_encode_keeps_one(encoder: CaptionEncoder) -> None:
    assert not encoder(PROMPTS).embeddings.requires_grad
    assert encoder.encode(*encoder.tokenize(PROMPTS)).embeddings.requires_grad


def test_gemmas_soft_cap_is_applied(tokenizer, gemma: Gemma2Model) -> None:
    config = Gemma2Config(**{**gemma.config.to_dict(), "attn_logit_softcapping": 0.01})
    capped = Gemma2Model(config).eval()
    capped.load_state_dict(gemma.state_dict())
    capped.config._attn_implementation = "sdpa"  # older releases start with it, and it has no cap
    plain, cap = (CaptionEncoder(tokenizer, m, max_tokens=MAX_TOKENS)(["a cat"]) for m in (gemma, capped))
    assert capped.config._attn_implementation == "eager"
    assert (plain.embeddings - cap.embeddings).abs().max() > 1e-3


def test_any_model_with_hidden_states_encodes(tokenizer) -> None:
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    encoder = CaptionEncoder(tokenizer, BertModel(config).eval(), chi=False, max_tokens=MAX_TOKENS)
    assert encoder(PROMPTS).embeddings.shape == (3, MAX_TOKENS, 16)


def test_without_transformers_the_remedy_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"sana-dit\[caption\]"):
        CaptionEncoder.from_pretrained(tmp_path)


def test_captions_unpack_into_the_arguments_of_the_model(encoder: CaptionEncoder) -> None:
    embeddings, mask = encoder(PROMPTS)
    assert isinstance(encoder(PROMPTS), Captions)
    assert embeddings.shape[:2] == mask.shape
    assert mask.dtype == torch.int64


@pytest.mark.parametrize(
    ("part", "name", "told"),
    [
        ("text_encoder", "model.safetensors", "is damaged .*: download it again"),
        ("tokenizer", "tokenizer.json", "could not be loaded .*: if its files are complete"),
    ],
)
def test_a_truncated_file_is_named(encoder: CaptionEncoder, tmp_path: Path, part: str, name: str, told: str) -> None:
    encoder.save_pretrained(tmp_path)
    os.truncate(tmp_path / part / name, 100)
    with pytest.raises(ValueError, match=f"(?s){part} {told}"):
        CaptionEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        (
            "config.json",
            {"hidden_activation": "nonsense"},
            r"does not describe a text encoder .*KeyError: 'nonsense'\)",
        ),
        ("sana.json", {"captions": 3}, "has 3 under 'captions', not an object"),
        ("sana.json", {"captions": {"max_tokens": "x"}}, "max_tokens is 'x'; it must be at least 2"),
    ],
)
def test_values_that_no_encoder_can_be_made_of_are_told_with_their_file(
    encoder: CaptionEncoder, tmp_path: Path, name: str, fields: dict, told: str
) -> None:
    encoder.save_pretrained(tmp_path)
    path = tmp_path / "text_encoder" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ValueError, match=f"{path}.* {told}"):
        CaptionEncoder.from_pretrained(tmp_path)


def test_missing_weights_are_named_and_not_drawn_at_random(encoder: CaptionEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    path = tmp_path / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    del weights["norm.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights \(norm.weight"):
        CaptionEncoder.from_pretrained(tmp_path)

import inspect
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline
from huggingface_hub.utils import filter_repo_objects
from sana_dit import caption_files
from sana_dit.captions import CaptionEncoder, Captions
from sana_dit.complex_human_instruction import COMPLEX_HUMAN_INSTRUCTION
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

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
    with pytest.warns(UserWarning, match="cut off: '.*apple cat'") as caught:
        captions = encoder([long], chi=chi)
    assert captions.mask.all()
    assert Path(caught[0].filename) == Path(__file__)


def test_a_prompt_of_just_max_tokens_warns_of_nothing(encoder: CaptionEncoder) -> None:
    text = "a" + " a" * (MAX_TOKENS - 2)
    assert len(encoder.tokenizer(text)["input_ids"]) == MAX_TOKENS
    encoder([text], chi=False)
    with pytest.warns(UserWarning, match="1 tokens longer"):
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


def test_a_saved_encoder_comes_back_with_its_facts(encoder: CaptionEncoder, tmp_path: Path) -> None:
    encoder = CaptionEncoder(encoder.tokenizer, encoder.text_encoder, compat="native", chi=False, max_tokens=MAX_TOKENS)
    encoder.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["text_encoder", "tokenizer"]
    facts = json.loads((tmp_path / "text_encoder" / "sana.json").read_text())
    assert facts == {"captions": {"compat": "native", "chi": False, "max_tokens": MAX_TOKENS}}
    for place, subfolder in [(tmp_path, None), (tmp_path / "text_encoder", None), (tmp_path, "text_encoder")]:
        loaded = CaptionEncoder.from_pretrained(place, subfolder=subfolder)
        assert (loaded.compat, loaded.chi, loaded.max_tokens) == ("native", False, MAX_TOKENS)
        assert torch.equal(loaded(PROMPTS).embeddings, encoder(PROMPTS).embeddings)
    assert CaptionEncoder.from_pretrained(tmp_path, compat="diffusers", chi=True).chi


def test_a_saved_encoder_is_a_text_encoder_of_diffusers(encoder: CaptionEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    index = {
        "_class_name": "SanaPipeline",
        "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        **{name: [None, None] for name in ("vae", "transformer", "scheduler")},
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    # transformers 5 would write TokenizersBackend, which transformers 4 cannot load.
    config = json.loads((tmp_path / "tokenizer" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    pipeline = SanaPipeline.from_pretrained(tmp_path, vae=None, transformer=None, scheduler=None)
    assert isinstance(pipeline.text_encoder, Gemma2Model)
    expected = pipeline.encode_prompt(PROMPTS[0], max_sequence_length=MAX_TOKENS)[0]
    torch.testing.assert_close(encoder(PROMPTS[:1], chi=False).embeddings, expected)


def test_facts_of_the_pipeline_folder_are_read_and_unknown_ones_refused(encoder, tmp_path: Path) -> None:
    folder = tmp_path / "nested"
    encoder.save_pretrained(folder)
    (folder / "text_encoder" / "sana.json").unlink()
    assert CaptionEncoder.from_pretrained(folder).max_tokens == 300
    (folder / "sana.json").write_text('{"captions": {"max_tokens": 7}}')
    for place, subfolder in [(folder, None), (folder, "text_encoder"), (tmp_path, "nested")]:
        assert CaptionEncoder.from_pretrained(place, subfolder=subfolder).max_tokens == 7
    (folder / "sana.json").write_text('{"captions": {"max_token": 7}}')
    with pytest.raises(ValueError, match="max_token"):
        CaptionEncoder.from_pretrained(folder)


def test_weights_of_a_variant_are_found(encoder: CaptionEncoder, tmp_path: Path) -> None:
    # The public bf16 repositories have model.bf16-00001-of-00002.safetensors and nothing without the infix.
    encoder.save_pretrained(tmp_path)
    (tmp_path / "text_encoder" / "model.safetensors").unlink()
    encoder.text_encoder.save_pretrained(tmp_path / "text_encoder", variant="bf16", max_shard_size="10KB")
    assert len(list((tmp_path / "text_encoder").glob("model.bf16-*.safetensors"))) > 1
    loaded = CaptionEncoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.text_encoder.dtype == torch.bfloat16
    assert torch.equal(CaptionEncoder.from_pretrained(tmp_path)("a cat").embeddings, encoder("a cat").embeddings)


def test_of_two_variants_the_dtype_picks(encoder: CaptionEncoder, tmp_path: Path) -> None:
    other = Gemma2Model(encoder.text_encoder.config)
    torch.nn.init.constant_(other.norm.weight, 7)
    encoder.save_pretrained(tmp_path)
    other.save_pretrained(tmp_path / "text_encoder", variant="bf16")
    for dtype, is_other in [(None, False), (torch.float32, False), (torch.bfloat16, True)]:
        loaded = CaptionEncoder.from_pretrained(tmp_path, dtype=dtype)
        assert bool((loaded.text_encoder.norm.weight == 7).all()) is is_other


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder that plays the Hub's repository and the one its files are downloaded into."""
    repo, cache = tmp_path / "repo", tmp_path / "cache"

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (name, revision) == ("owner/name", "v1")
        files = [p.relative_to(repo).as_posix() for p in repo.rglob("*") if p.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            (cache / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repo / file, cache / file)
        return str(cache)

    monkeypatch.setattr(caption_files, "snapshot_download", download)
    return repo, cache


def test_of_a_pipeline_on_the_hub_only_the_caption_encoder_is_downloaded(encoder, hub) -> None:
    repo, cache = hub
    encoder.save_pretrained(repo)
    encoder.text_encoder.save_pretrained(repo / "text_encoder", variant="bf16", max_shard_size="10KB")
    (repo / "vae").mkdir()
    for name in ("README.md", "vae/diffusion_pytorch_model.safetensors", "text_encoder/pytorch_model.bin"):
        (repo / name).write_bytes(b"large")
    loaded = CaptionEncoder.from_pretrained("owner/name", revision="v1", dtype=torch.bfloat16)
    assert loaded.max_tokens == MAX_TOKENS
    weights = {p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.suffix != ".json"}
    assert all(name.startswith("text_encoder/model.bf16-") for name in weights - {"text_encoder", "tokenizer"})
    assert len(weights) > 3


@pytest.mark.parametrize("subfolder", [None, "language/model"])
def test_a_language_model_on_the_hub_is_a_caption_encoder(encoder, hub, subfolder: str | None) -> None:
    folder = hub[0] / (subfolder or "")
    encoder.text_encoder.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    loaded = CaptionEncoder.from_pretrained("owner/name", subfolder=subfolder, revision="v1", max_tokens=MAX_TOKENS)
    assert torch.equal(loaded("a cat").embeddings, encoder("a cat").embeddings)


def test_saving_again_leaves_no_shards_of_the_first_time(encoder: CaptionEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder"
    encoder.text_encoder.save_pretrained(folder, max_shard_size="10KB")
    assert (folder / "model.safetensors.index.json").exists()
    encoder.save_pretrained(tmp_path)
    assert [p.name for p in folder.glob("model*")] == ["model.safetensors"]


def test_a_failed_save_leaves_the_first_one_as_it_was(encoder: CaptionEncoder, tmp_path: Path, monkeypatch) -> None:
    encoder.save_pretrained(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(encoder.tokenizer, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        encoder.save_pretrained(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("missing", ["text_encoder/config.json", "tokenizer", "text_encoder/model.safetensors"])
def test_a_missing_part_is_named(encoder: CaptionEncoder, tmp_path: Path, missing: str) -> None:
    encoder.save_pretrained(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=Path(missing).name.split(".")[0]):
        CaptionEncoder.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        CaptionEncoder.from_pretrained(tmp_path / "nothing")


def test_without_transformers_the_remedy_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"sana-dit\[caption\]"):
        CaptionEncoder.from_pretrained(tmp_path)


def test_captions_unpack_into_the_arguments_of_the_model(encoder: CaptionEncoder) -> None:
    embeddings, mask = encoder(PROMPTS)
    assert isinstance(encoder(PROMPTS), Captions)
    assert embeddings.shape[:2] == mask.shape
    assert mask.dtype == torch.int64

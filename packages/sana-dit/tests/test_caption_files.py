import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline
from huggingface_hub.utils import filter_repo_objects
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

from sana_dit.captions import CaptionEncoder

PROMPTS = ["a cat", "", "the cat saw a dog"]
MAX_TOKENS = 6


@pytest.fixture
def encoder() -> CaptionEncoder:
    """An encoder of another compat, chi and max_tokens than the defaults."""
    words = {word: i for i, word in enumerate(["<pad>", "<bos>", "<unk>", "a", "the", "cat", "dog"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    special = {"bos_token": "<bos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        pad_token_id=0,
    )
    return CaptionEncoder(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special),
        Gemma2Model(config).eval(),
        compat="native",
        chi=False,
        max_tokens=MAX_TOKENS,
    )


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


def test_a_large_text_encoder_is_saved_in_several_files(encoder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("sana_dit.caption_files._SHARD_SIZE", "4KB")
    encoder.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("text_encoder/model-*-of-*.safetensors"))) > 1
    assert torch.equal(CaptionEncoder.from_pretrained(tmp_path)(PROMPTS).embeddings, encoder(PROMPTS).embeddings)


def test_a_published_encoder_has_a_card_and_leaves_no_earlier_weights(encoder, monkeypatch) -> None:
    def upload(folder, repo, *, card, weights, **options):
        assert f'CaptionEncoder.from_pretrained("{repo}")' in card
        assert [path.name for pattern in weights for path in folder.glob(pattern)] == ["model.safetensors"]
        assert CaptionEncoder.from_pretrained(folder).max_tokens == MAX_TOKENS
        return options

    monkeypatch.setattr("sana_dit.captions.upload", upload)
    settings = {"licence": "gemma", "private": True, "token": "t"}
    assert encoder.push_to_hub("me/captions", **settings) == settings
    encoder.text_encoder.norm.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"norm\.weight hold NaN"):
        encoder.push_to_hub("me/captions")


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

    monkeypatch.setattr("sana_dit.hub_download.snapshot_download", download)
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
    loaded = CaptionEncoder.from_pretrained(
        "owner/name", subfolder=subfolder, revision="v1", chi=False, max_tokens=MAX_TOKENS
    )
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


@pytest.mark.parametrize(
    "missing", ["text_encoder/config.json", "tokenizer/tokenizer.json", "text_encoder/model.safetensors"]
)
def test_a_missing_part_is_named(encoder: CaptionEncoder, tmp_path: Path, missing: str) -> None:
    encoder.save_pretrained(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=Path(missing).name.split(".")[0]):
        CaptionEncoder.from_pretrained(tmp_path)


def test_memory_that_runs_out_is_not_the_files_fault(encoder: CaptionEncoder, tmp_path: Path, monkeypatch) -> None:
    encoder.save_pretrained(tmp_path)

    def fail(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(AutoModel, "from_pretrained", fail)
    with pytest.raises(torch.OutOfMemoryError):
        CaptionEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("error", [ImportError("no sentencepiece"), Exception("bad merges")], ids=["package", "file"])
def test_a_tokenizer_that_cannot_be_loaded_says_why(encoder, tmp_path: Path, monkeypatch, error: Exception) -> None:
    encoder.save_pretrained(tmp_path)

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fail)
    told = "^no sentencepiece" if isinstance(error, ImportError) else r"could not be loaded \(bad merges\).*complete"
    with pytest.raises(ImportError if isinstance(error, ImportError) else ValueError, match=told):
        CaptionEncoder.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        CaptionEncoder.from_pretrained(tmp_path / "nothing")

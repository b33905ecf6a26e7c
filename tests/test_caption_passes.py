import io
import json
import tarfile
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

from sana.commands import app
from sana_train.data import ImageManifest

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "picture", "number", "of"]
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = TINY | {"vocab_size": len(WORDS), "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
VISION = TINY | {"image_size": 32, "patch_size": 16}
SIDE = {"height": 32, "width": 32}


def tokenizer(kind=PreTrainedTokenizerFast):
    """Of words; in transformers 4 a processor takes its own `kind` alone, and that a sequence and a normalizer."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    words = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", ignore_merges=True))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit()])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    own = PreTrainedTokenizerFast if version("transformers") >= "5" else kind
    return own(tokenizer_object=words, **special, model_max_length=64)


@pytest.fixture(scope="module")
def labellers(tmp_path_factory):
    """A captioner, a scorer and a language model of random weights, saved as real ones are."""
    folder = tmp_path_factory.mktemp("labellers")
    torch.manual_seed(0)
    text = TEXT | {"encoder_hidden_size": 16, "sep_token_id": 2}
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder / "blip")
    BlipProcessor(BlipImageProcessor(size=SIDE), tokenizer(BertTokenizerFast)).save_pretrained(folder / "blip")
    config = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)
    CLIPModel(config).save_pretrained(folder / "clip")
    clip_processor = CLIPProcessor(CLIPImageProcessor(size=SIDE, crop_size=SIDE), tokenizer(CLIPTokenizerFast))
    clip_processor.save_pretrained(folder / "clip")
    language_model = LlamaForCausalLM(LlamaConfig(**TEXT | {"max_position_embeddings": 256}))
    language_model.generation_config.suppress_tokens = [0, 1, 2]
    language_model.save_pretrained(folder / "llama")
    tokenizer().save_pretrained(folder / "llama")
    return folder


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as archive:
        for number in range(4):
            stream = io.BytesIO()
            pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(stream, "PNG")
            for suffix, body in (("png", stream.getvalue()), ("txt", f"a picture number {number}".encode())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu", "--no-progress"])


def test_a_folder_is_captioned_scored_and_rewritten(images, labellers):
    names = ["captioned", "scored", "rewritten"]
    captioned, scored, rewritten = (images / f"{name}.parquet" for name in names)
    few = ("--max-new-tokens", 4)
    commands = [
        ("caption-dataset", images, captioned, "--model", labellers / "blip", *few, "--max-skipped", 1),
        ("score-captions", captioned, scored, "--model", labellers / "clip"),
        ("rewrite-captions", scored, rewritten, "--model", labellers / "llama", "--forms", "chinese,emoji", *few),
    ]
    for command in commands:
        result = run(*command)
        assert result.exit_code == 0, result.output
    manifest = ImageManifest.read(rewritten)
    record = manifest[0]
    assert record.captions[0] == "a picture number 0"
    assert record.sources[-2:] == (f"{labellers / 'llama'}/chinese", f"{labellers / 'llama'}/emoji")
    assert all(-100 <= score <= 100 for score in record.scores)
    assert record.scores[-1] == max(record.scores[:-2])
    assert result.stdout.startswith(f"{rewritten}: 4 images, ")


def test_a_finished_pass_is_not_done_again(images, labellers):
    command = ("score-captions", images, images / "scored.parquet", "--model", labellers / "clip")
    assert run(*command).exit_code == 0
    first = (images / "scored.parquet").read_bytes()
    unit = images / "scored.work" / "units" / "000000000.json"
    facts = json.loads(unit.read_text())
    facts["results"]["0"] = [99.0]
    unit.write_text(json.dumps(facts))
    assert run(*command).exit_code == 0
    assert ImageManifest.read(images / "scored.parquet")[0].scores == (99.0,)
    assert (images / "scored.parquet").read_bytes() != first


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("images/manifest.parquet", "give another file than"),
        ("images/scored.json", "in .parquet"),
        ("scored.parquet", "it must be in"),
    ],
)
def test_a_manifest_that_would_lead_nowhere_is_refused(images, labellers, tmp_path, out, message):
    assert CliRunner().invoke(app, ["index-dataset", str(images), "--no-progress"]).exit_code == 0
    source = images / "manifest.parquet"
    result = run("score-captions", source, tmp_path / out, "--model", labellers / "clip")
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_form_or_model_that_is_not_there_is_said(images, labellers):
    out = images / "new.parquet"
    result = run("rewrite-captions", images, out, "--model", labellers / "llama", "--forms", "latin")
    assert (result.exit_code, "'latin' is not one of chinese, mixed, emoji" in result.stderr) == (2, True)
    result = run("score-captions", images, out, "--model", labellers / "gone")
    assert result.exit_code == 2
    assert "gone" in result.stderr
    assert not out.exists()


@pytest.mark.filterwarnings("always:.* when manifest.parquet was written")
def test_a_pass_that_stops_lists_what_it_skipped(images, labellers):
    assert CliRunner().invoke(app, ["index-dataset", str(images), "--no-progress"]).exit_code == 0
    tar = images / "0.tar"
    content = bytearray(tar.read_bytes())
    start = content.index(b"\x89PNG")
    content[start : start + 8] = bytes(8)
    tar.write_bytes(content)
    result = run("score-captions", images, images / "scored.parquet", "--model", labellers / "clip")
    assert result.exit_code == 2
    assert f"All of them are listed in {images / 'scored.skipped.jsonl'}" in result.stderr
    assert json.loads((images / "scored.skipped.jsonl").read_text())["key"] == "0.tar/0"
    assert not (images / "scored.parquet").exists()

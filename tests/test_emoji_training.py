import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from recipes.emoji import detector, encode_scenes, train_transformer
from recipes.emoji.encode_scenes import check_shard, load_shards, shard_facts
from recipes.emoji.sprites import DrawnSprites
from recipes.emoji.tokenizer import train_tokenizer
from recipes.emoji.train_autoencoder import EMOJI_DCAE
from sana_ae import DCAE
from sana_train import Trainer


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    narrow = (8, 8, 16, 16, 32, 32)
    return DCAE(replace(EMOJI_DCAE, encoder_block_out_channels=narrow, decoder_block_out_channels=narrow))


@pytest.fixture
def run(autoencoder, tmp_path):
    """A folder that the transformer can be trained from."""
    pytest.importorskip("transformers", "5", "the recipe's tokenizer is made as transformers 5 makes them")
    autoencoder.save_pretrained(tmp_path / "autoencoder")
    tokenizer = train_tokenizer(["a dog", "一只猫"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "latents").mkdir()
    shard = {"latents": torch.zeros(4, 32, 4, 4).half(), "tokens": torch.ones(4, 4, 32, dtype=torch.int16)}
    save_file(shard, tmp_path / "latents" / "00000.safetensors", metadata=shard_facts(autoencoder, tokenizer))
    return tmp_path


def call(monkeypatch, module, *options):
    monkeypatch.setattr(sys, "argv", ["recipe", "--device", "cpu", *map(str, options)])
    module.main()


def retrained(autoencoder, folder, part):
    with torch.no_grad():
        next(getattr(autoencoder, part).parameters()).add_(1)
    autoencoder.save_pretrained(folder / "autoencoder")


def test_a_stopped_transformer_is_not_published(run, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda trainer: False)
    with pytest.raises(SystemExit, match="the same command goes on"):
        call(monkeypatch, train_transformer, "--out", run, "--batch-size", 2, "--steps", 10)
    assert not (run / "pipeline").exists()
    assert not (run / "transformer.json").exists()


def test_a_stopped_detector_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda trainer: False)
    monkeypatch.setattr(detector, "FontSprites", DrawnSprites)
    with pytest.raises(SystemExit, match="the same command goes on"):
        call(monkeypatch, detector, "--out", tmp_path, "--steps", 10)
    assert not (tmp_path / "detector").exists()


def test_latents_of_another_encoder_are_refused(run, autoencoder, monkeypatch):
    retrained(autoencoder, run, "encoder")
    monkeypatch.setattr(encode_scenes, "FontSprites", DrawnSprites)
    monkeypatch.setattr(encode_scenes, "TOKENIZER_SCENES", 10)
    for recipe, *options in ((encode_scenes, "--scenes", 1), (train_transformer, "--batch-size", 2)):
        with pytest.raises(ValueError, match=r"00000\.safetensors was written with another autoencoder"):
            call(monkeypatch, recipe, "--out", run, *options)


def test_latents_stay_valid_where_only_the_decoder_was_trained(run, autoencoder):
    retrained(autoencoder, run, "decoder")
    tokenizer = AutoTokenizer.from_pretrained(run / "tokenizer")
    facts = shard_facts(DCAE.from_pretrained(run / "autoencoder"), tokenizer)
    assert len(load_shards(run / "latents", facts)["latents"]) == 4


def test_tokens_of_another_vocabulary_are_refused(run, autoencoder):
    facts = shard_facts(autoencoder, train_tokenizer(["a dog", "一只鱼"]))
    with pytest.raises(ValueError, match=r"another autoencoder or tokenizer \(vocabulary \w+ -> \w+\)"):
        load_shards(run / "latents", facts)


def test_shards_that_name_no_encoder_are_known_by_their_scale(tmp_path):
    facts, path = {"scaling_factor": "0.5", "encoder": "abc", "vocabulary": "def"}, tmp_path / "old.safetensors"
    save_file({"latents": torch.zeros(1)}, path, metadata={"scaling_factor": facts["scaling_factor"]})
    check_shard(path, facts)
    with pytest.raises(ValueError, match=r"scaling_factor .* -> 7\.0"):
        check_shard(path, facts | {"scaling_factor": "7.0"})

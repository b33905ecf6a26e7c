"""Tiny random checkpoints of GenEval's two models, made by transformers, and folders in its layout."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedTokenizerFast,
    SwinConfig,
)

from sana_judge.geneval import COLORS, save_prompt


def mask2former(**changes) -> Mask2FormerForUniversalSegmentation:
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        **{
            "backbone_config": backbone,
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 32,
            "dim_feedforward": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 2,
            "num_queries": 12,
            "num_labels": 80,
        }
        | changes
    )
    model = Mask2FormerForUniversalSegmentation(config).eval()
    # Random heads give every class the same probability: make some classes and some masks surer than others.
    torch.nn.init.normal_(model.class_predictor.weight, std=2.0)
    return model


@pytest.fixture(scope="session")
def make_mask2former():
    return mask2former


@pytest.fixture(scope="session")
def mask2former_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mask2former")
    mask2former().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    words = ["[PAD]", "[UNK]", "a", "[END]", "photo", "of", "-", "colored", "object", "cat", "dog", *COLORS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 3)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]")
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(words), "max_position_embeddings": 12, "eos_token_id": 3}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.eval().save_pretrained(folder)
    return folder


CATS = [
    {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"},
    {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "a photo of a red cat"},
    {
        "tag": "counting",
        "include": [{"class": "cat", "count": 2}],
        "exclude": [{"class": "cat", "count": 3}],
        "prompt": "a photo of two cats",
    },
]


@pytest.fixture
def metadata() -> list[dict]:
    """Of three prompts, as their own copy."""
    return json.loads(json.dumps(CATS))


@pytest.fixture
def folder(tmp_path, metadata) -> Path:
    """Two images of each prompt; the red channel of an image is its number in all."""
    for number, each in enumerate(metadata):
        images = [Image.new("RGB", (16, 12), (2 * number + index, 0, 0)) for index in range(2)]
        save_prompt(tmp_path / "images", number, each, images)
    return tmp_path / "images"

import builtins

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from sana_judge.metrics import clean_fid, torchmetrics_clip_score, torchmetrics_fid

PROMPTS = ["a red dog", "a cat", "a red cat that is red"]


class ChannelMeans(nn.Module):
    """Features that are known: the mean of each channel, in [0, 1]."""

    num_features = 3

    def forward(self, x):
        assert x.dtype == torch.uint8
        return x.double().mean((2, 3)) / 255


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    words = ["[PAD]", "[UNK]", "a", "[END]", "red", "dog", "cat"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[END]").save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(words), "max_position_embeddings": 6, "eos_token_id": 3}
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=16)
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.eval().save_pretrained(folder)
    return folder


def noise(count, *, seed, size=(9, 7), shift=0):
    draw = np.random.default_rng(seed)
    return [
        Image.fromarray((draw.integers(0, 200, (*size, 3)) + shift).clip(0, 255).astype(np.uint8)) for _ in range(count)
    ]


def frechet(first, second):
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) in double precision, through the roots of a symmetric product."""
    (m1, c1), (m2, c2) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (first, second))
    values, vectors = np.linalg.eigh(c1)
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ c2 @ root).clip(0)).sum()
    return ((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * cross


def means(images):
    return np.stack([np.asarray(image).mean((0, 1)) / 255 for image in images])


def test_fid_is_the_distance_of_two_gaussians():
    generated = noise(20, seed=0, shift=30) + noise(7, seed=1, size=(5, 11), shift=40)
    real = noise(25, seed=2)
    distance = torchmetrics_fid(generated, real, features=ChannelMeans(), batch_size=4, progress=False)
    # torchmetrics returns float32 of sums that it keeps in float64.
    assert distance == pytest.approx(frechet(means(generated), means(real)), rel=1e-4)


def test_fid_of_a_set_with_itself_is_zero():
    images = noise(20, seed=0)
    assert torchmetrics_fid(images, images, features=ChannelMeans(), progress=False) == pytest.approx(0, abs=1e-6)


def test_fid_needs_two_images_and_a_known_resize():
    with pytest.raises(ValueError, match="real holds 1 images"):
        torchmetrics_fid(noise(2, seed=0), noise(1, seed=1), features=ChannelMeans())
    with pytest.raises(ValueError, match="resize is 'bicubic'; it must be one of bilinear-antialias, tensorflow"):
        torchmetrics_fid(noise(2, seed=0), noise(2, seed=1), resize="bicubic", features=ChannelMeans())


@torch.no_grad()
def test_clip_score_is_a_hundred_times_the_mean_cosine(clip_folder):
    images = noise(3, seed=0, size=(32, 48))
    score = torchmetrics_clip_score(PROMPTS, images, repo_or_dir=clip_folder, batch_size=2, progress=False)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = PreTrainedTokenizerFast.from_pretrained(clip_folder)
    cosines = []
    for prompt, image in zip(PROMPTS, images, strict=True):
        pixels = np.asarray(image.crop((8, 0, 40, 32)), dtype=np.float64) / 255  # the middle; the short side is 32
        pixels = (pixels - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
        x = torch.tensor(pixels).permute(2, 0, 1)[None].float()
        seen = model.visual_projection(model.vision_model(x).pooler_output)
        ids = tokens(prompt, truncation=True, max_length=6, return_tensors="pt")["input_ids"]  # of 7, for one
        read = model.text_projection(model.text_model(ids).pooler_output)
        cosines.append(torch.cosine_similarity(seen, read).item())
    assert score == pytest.approx(max(100 * np.mean(cosines), 0), rel=1e-4)


def test_one_prompt_may_belong_to_all_images(clip_folder):
    images = noise(3, seed=0)
    one = torchmetrics_clip_score("a cat", images, repo_or_dir=clip_folder, progress=False)
    assert one == torchmetrics_clip_score(["a cat"] * 3, images, repo_or_dir=clip_folder, progress=False)


def test_clip_score_needs_images(clip_folder):
    with pytest.raises(ValueError, match="no images"):
        torchmetrics_clip_score("a cat", [], repo_or_dir=clip_folder)


@pytest.mark.parametrize(
    ("call", "package"),
    [
        (lambda: torchmetrics_clip_score("a cat", noise(1, seed=0)), "torchmetrics"),
        (lambda: torchmetrics_fid(noise(2, seed=0), noise(2, seed=1)), "torchmetrics"),
        (lambda: clean_fid("a", "b"), "cleanfid"),
    ],
)
def test_without_the_extra_the_remedy_is_said(monkeypatch, call, package):
    found = builtins.__import__

    def missing(name, *rest):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'sana-judge\[metrics\]'"):
        call()


def test_without_torch_fidelity_the_remedy_is_said():
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="needs torch-fidelity: pip install"):
            torchmetrics_fid(noise(2, seed=0), noise(2, seed=1))
    else:
        pytest.skip("torch-fidelity is installed")

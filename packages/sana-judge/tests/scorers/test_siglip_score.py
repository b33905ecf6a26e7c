import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, SiglipModel

from sana_judge import SigLIPScore
from sana_judge.scorers.pixels import SIGLIP

# float32 rounds to 6e-8 and logits are below 10.
SAME = 1e-5


@pytest.fixture(scope="module")
def scorer(siglip_folder):
    return SigLIPScore.from_pretrained(siglip_folder)


@pytest.mark.parametrize("prompt", ["photo of red dog", "", "a b c d e f g h i j k l m n o p q r s t"])
def test_it_is_the_sigmoid_of_transformers_logit(scorer, siglip_folder, pictures, prompt):
    model, tokenizer = SiglipModel.from_pretrained(siglip_folder), AutoTokenizer.from_pretrained(siglip_folder)
    tokens = tokenizer([prompt], padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    pixels = SIGLIP.of(siglip_folder, size=32)
    assert (pixels.resample, pixels.mean) == (2, (0.5, 0.5, 0.4))
    with torch.no_grad():
        logits = model(input_ids=tokens["input_ids"], pixel_values=pixels(pictures)).logits_per_image[:, 0]
    assert scorer(prompt, pictures) == pytest.approx(logits.sigmoid().tolist(), abs=SAME)


def test_batches_and_prompts_per_image_change_nothing(siglip_folder, scorer, pictures):
    prompts = ["dog", "no", "dog"]
    alone = [scorer(prompt, [picture])[0] for prompt, picture in zip(prompts, pictures, strict=True)]
    assert SigLIPScore.from_pretrained(siglip_folder, batch_size=2)(prompts, pictures) == pytest.approx(alone, abs=SAME)


def test_no_images_no_scores(scorer):
    assert scorer("a", []) == []


def test_nan_is_an_error_that_names_the_image(pictures, siglip_folder, tmp_path):
    folder = shutil.copytree(siglip_folder, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["logit_bias"].fill_(math.nan)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(FloatingPointError, match=r"images\[0\] is nan"):
        SigLIPScore.from_pretrained(folder)("dog", pictures)


def test_a_folder_without_weights_says_what_to_fetch(siglip_folder, tmp_path):
    folder = shutil.copytree(siglip_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(FileNotFoundError, match="hf download google/siglip-so400m-patch14-384"):
        SigLIPScore.from_pretrained(folder)

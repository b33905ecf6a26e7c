import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from sana_judge import CLIPScore
from sana_judge.scorers.pixels import OPENAI_CLIP

PROMPT = "photo of red dog"
# float32 rounds to 6e-8; two layers and a norm of 16 numbers make it at most some hundred roundings of numbers near 1.
SAME = 1e-5


@pytest.fixture(scope="module")
def scorer(clip_folder):
    return CLIPScore.from_pretrained(clip_folder)


@pytest.fixture(scope="module")
def reference(clip_folder, pictures):
    """Cosines by transformers' own forward, for prompts with the paper's prefix."""
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), AutoTokenizer.from_pretrained(clip_folder)

    def cosines(prompt):
        tokens = tokenizer([f"A photo depicts {prompt}"], return_tensors="pt", truncation=True, max_length=12)
        pixels = OPENAI_CLIP.of(clip_folder, size=32)(pictures)
        with torch.no_grad():
            logits = model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels
            ).logits_per_image
        return logits[:, 0] / model.logit_scale.exp()

    return cosines


@pytest.mark.parametrize("prompt", [PROMPT, "b", "no yes", "", "a b c d e f g h i j k l m n o p q r s t"])
def test_it_is_the_papers_formula_over_transformers_cosine(scorer, reference, pictures, prompt):
    expected = (2.5 * reference(prompt).detach().clamp(min=0)).tolist()
    assert scorer(prompt, pictures) == pytest.approx(expected, abs=SAME)


@pytest.fixture
def edited(clip_folder, tmp_path):
    """Loads the checkpoint after a change of one of its weights."""

    def edit(name, change):
        folder = shutil.copytree(clip_folder, tmp_path / "edited")
        weights = load_file(folder / "model.safetensors")
        change(weights[name])
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return CLIPScore.from_pretrained(folder)

    return edit


def test_what_points_away_scores_nothing_and_never_less(edited, reference, pictures):
    assert min(reference(PROMPT)) > SAME
    assert edited("text_projection.weight", torch.Tensor.neg_)(PROMPT, pictures) == [0, 0, 0]


def test_batches_and_prompts_per_image_change_nothing(clip_folder, scorer, pictures):
    prompts = ["dog", PROMPT, "dog"]
    alone = [scorer(prompt, [picture])[0] for prompt, picture in zip(prompts, pictures, strict=True)]
    small = CLIPScore.from_pretrained(clip_folder, batch_size=2, progress=False)
    assert small(prompts, pictures) == pytest.approx(alone, abs=SAME)
    assert scorer(prompts, pictures) == pytest.approx(alone, abs=SAME)


def test_the_prefix_may_be_left_out(clip_folder, scorer, pictures):
    plain = CLIPScore.from_pretrained(clip_folder, prefix="")
    assert plain(f"A photo depicts {PROMPT}", pictures) == pytest.approx(scorer(PROMPT, pictures), abs=SAME)
    assert plain(PROMPT, pictures) != pytest.approx(scorer(PROMPT, pictures), abs=SAME)


def test_what_it_is_given_is_checked_as_by_every_judge(scorer, pictures, tmp_path):
    assert scorer(PROMPT, []) == scorer([], []) == []
    with pytest.raises(ValueError, match="2 prompts for 3 images"):
        scorer(["a", "b"], pictures)
    with pytest.raises(TypeError, match="must be a list"):
        scorer(PROMPT, pictures[0])
    with pytest.raises(TypeError, match="None; it must be a string"):
        scorer([None], pictures[:1])
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"broken\.png is not an image") as error:
        scorer(PROMPT, [pictures[0], tmp_path / "broken.png"])
    assert error.value.__notes__ == ["It is images[1]."]


def test_nan_is_an_error_that_names_the_image(edited, pictures):
    broken = edited("visual_projection.weight", lambda weight: weight.fill_(math.nan))
    with pytest.raises(FloatingPointError, match=r"images\[0\] is nan"):
        broken(PROMPT, pictures)


def test_a_folder_without_weights_says_what_to_fetch(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(FileNotFoundError, match=r"has no weights .*hf download openai/clip-vit-large-patch14"):
        CLIPScore.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="hf download openai/clip-vit-large-patch14"):
        CLIPScore.from_pretrained(tmp_path / "nowhere")


def test_weights_that_are_missing_are_not_drawn_at_random(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 of CLIPModel \(text_projection\.weight"):
        CLIPScore.from_pretrained(folder)


def test_another_kind_of_model_is_refused(siglip_folder):
    with pytest.raises(ValueError, match=r"type 'siglip'; it must be one of \('clip',\)"):
        CLIPScore.from_pretrained(siglip_folder)


def test_batches_have_at_least_one_image(clip_folder):
    with pytest.raises(ValueError, match="batch_size is 0"):
        CLIPScore.from_pretrained(clip_folder, batch_size=0)


def test_the_filter_and_the_channels_are_the_checkpoints(clip_folder, tmp_path, pictures):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": 2, "image_mean": [0, 0, 0]}))
    pixels = OPENAI_CLIP.of(tmp_path, size=16)
    assert (pixels.resample, pixels.mean, pixels.size, pixels.std) == (2, (0, 0, 0), 16, OPENAI_CLIP.std)
    assert pixels(pictures).shape == (3, 3, 16, 16)

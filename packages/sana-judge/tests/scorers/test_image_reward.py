import shutil

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import AutoTokenizer

from sana_judge import ImageReward
from sana_judge.scorers.pixels import OPENAI_CLIP

# float32, through some thousand roundings.
SAME = 1e-4


@pytest.fixture(scope="module")
def scorer(image_reward_folder):
    return ImageReward.from_pretrained(image_reward_folder)


def test_it_sees_clips_pixels_and_reads_35_tokens(scorer, image_reward_folder, pictures):
    prompt = " ".join("abcdefghijklmnopqrstuvwxyz" * 2)
    tokens = AutoTokenizer.from_pretrained(image_reward_folder)(
        [prompt] * 3, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    pixels = OPENAI_CLIP.of(image_reward_folder, size=32)(pictures)
    with torch.no_grad():
        expected = scorer.network(pixels, tokens["input_ids"], tokens["attention_mask"])
    assert tokens["input_ids"].shape == (3, 35)
    assert scorer(prompt, pictures) == pytest.approx(expected.tolist(), abs=SAME)


def test_batches_and_prompts_per_image_change_nothing(image_reward_folder, scorer, pictures):
    prompts = ["dog", "a photo of a red dog", ""]
    alone = [scorer(prompt, [picture])[0] for prompt, picture in zip(prompts, pictures, strict=True)]
    small = ImageReward.from_pretrained(image_reward_folder, batch_size=2)
    assert small(prompts, pictures) == pytest.approx(alone, abs=SAME)
    assert len(set(alone)) == 3


def test_no_images_no_rewards(scorer):
    assert scorer("dog", []) == []


def test_it_runs_in_half_precision(image_reward_folder, scorer, pictures):
    half = ImageReward.from_pretrained(image_reward_folder, dtype=torch.bfloat16)
    # bfloat16 keeps 8 bits: errors of a percent in each of some ten steps.
    assert half("dog", pictures) == pytest.approx(scorer("dog", pictures), abs=0.3)


def test_a_missing_file_says_where_it_is(image_reward_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no ImageReward\.pt: fetch it from THUDM/ImageReward"):
        ImageReward.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="hf download THUDM/ImageReward"):
        ImageReward.from_pretrained(tmp_path / "nowhere")


@pytest.fixture
def hub(image_reward_folder, monkeypatch):
    """Gives the weights of any repository, and fails as it is told to for other files."""

    def serve(failure):
        def fetch(repo, name, *, revision):
            if name != "ImageReward.pt":
                raise failure
            return str(image_reward_folder / name)

        monkeypatch.setattr("sana_judge.scorers.image_reward.hf_hub_download", fetch)

    return serve


def test_a_text_encoder_that_could_not_be_fetched_is_not_taken_for_berts(hub):
    hub(LocalEntryNotFoundError("503"))
    with pytest.raises(FileNotFoundError, match=r"lacks files of nobody/reward\. The Hub was not reached"):
        ImageReward.from_pretrained("nobody/reward")


def test_a_repository_without_med_config_has_berts_text_encoder(hub):
    hub(EntryNotFoundError("404"))
    with pytest.raises(ValueError, match=r"are missing: text\.encoder\.layer\.1"):
        ImageReward.from_pretrained("nobody/reward")


def test_a_pickle_that_holds_more_than_tensors_is_refused(image_reward_folder, tmp_path):
    folder = shutil.copytree(image_reward_folder, tmp_path / "evil")
    torch.save({"weight": pytest.fail}, folder / "ImageReward.pt")
    with pytest.raises(ValueError, match="more than tensors"):
        ImageReward.from_pretrained(folder)


def test_nan_is_an_error_that_names_the_image(image_reward_folder, pictures, tmp_path):
    folder = shutil.copytree(image_reward_folder, tmp_path / "nan")
    weights = torch.load(folder / "ImageReward.pt", weights_only=True)
    weights["mlp.layers.7.bias"].fill_(float("nan"))
    torch.save(weights, folder / "ImageReward.pt")
    with pytest.raises(FloatingPointError, match=r"images\[0\] is nan"):
        ImageReward.from_pretrained(folder)("dog", pictures)

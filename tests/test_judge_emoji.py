import json
import random
import sys

import numpy as np
import pytest
import torch

from recipes.emoji import judge_release, judge_samples, judge_scenes, train_judge
from recipes.emoji.contents import TASKS, Content, Group, evaluation_contents, is_held_out, sample_content
from recipes.emoji.detector import judge, true_detections
from recipes.emoji.detector_network import Detector, DetectorNetwork
from recipes.emoji.judge_batches import JudgeBatches, SamplePictures
from recipes.emoji.judge_model import PATCHES, EmojiObjective, new_emoji_judge, saying_loss
from recipes.emoji.judge_samples import Sample
from recipes.emoji.judge_scenes import (
    content_of,
    held_out_scene,
    near_misses,
    patch_targets,
    training_sample,
    training_scene,
)
from recipes.emoji.judge_tokenizer import train_judge_tokenizer
from recipes.emoji.scenes import SIZE, arrange, scene_at
from recipes.emoji.sprites import DrawnSprites, SpriteSheet, save_sprites
from recipes.emoji.vocabulary import COLORS, THINGS
from sana import SanaPipeline
from sana_judge import Detection, VILAJudge
from sana_judge.training import QuestionBatcher
from sana_judge.training.questions import PADDING, PICTURE


@pytest.fixture(scope="module")
def sprites():
    return SpriteSheet(DrawnSprites())


@pytest.fixture(scope="module")
def tokenizer(sprites):
    return train_judge_tokenizer(scene_at(index, sprites).caption for index in range(3000))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A data folder with two shards of the embedded model, in four steps, seen by an untrained detector."""
    folder = tmp_path_factory.mktemp("data")
    pipeline = SanaPipeline.embedded(device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_samples, "IMAGES_PER_PROMPT", 1)
        patch.setattr(pipeline.facts.__class__, "steps_for", lambda facts, sprint: 2)
        for split in ("training", "held-out"):
            judge_samples.write_samples(pipeline, Detector(DetectorNetwork()), folder / "samples", split, 16)
    return folder


def test_every_word_and_answer_is_read_whole(tokenizer):
    assert all(len(tokenizer(word)["input_ids"]) == 1 for word in ("yes", "no"))
    assert tokenizer.tokenize("two red apples") == ["two", "Ġred", "Ġapples"]
    assert tokenizer.decode(tokenizer("两个红色的苹果 Ünïcode 🦄")["input_ids"]) == "两个红色的苹果 Ünïcode 🦄"


def test_no_token_joins_two_chinese_characters(tokenizer):
    words = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    whole = [word for word in words if "\ufffd" not in word]  # others are bytes of a character
    assert not [word for word in whole if len(word) > 1 and not word.isascii()]


@pytest.mark.parametrize("task", TASKS)
def test_contents_come_back_from_their_metadata(task):
    for content in (sample_content(random.Random(seed), task) for seed in range(20)):
        assert content_of(content.metadata("")) == content


@pytest.mark.parametrize("task", TASKS)
def test_a_scene_of_a_near_miss_is_wrong_for_the_prompt(sprites, task):
    rng = random.Random(0)
    for content in evaluation_contents(task, 4):
        for other in near_misses(content, rng):
            found = true_detections(arrange(other, sprites, rng))
            assert not judge(found, content.metadata("")).correct, (content, other)


@pytest.mark.parametrize("task", TASKS)
def test_held_out_prompts_are_seen_right_and_wrong(sprites, task):
    for content in evaluation_contents(task, 2):
        labels = [shown.asked[0].label for shown in held_out_scene(content, sprites, random.Random(0))]
        assert labels[:3] == [1, 1, 1]
        assert labels[3:] == [0] * (len(labels) - 3) != []


def test_training_questions_name_nothing_held_out_and_are_balanced(sprites, monkeypatch):
    asked_of = []
    word = judge_scenes.caption
    monkeypatch.setattr(
        judge_scenes, "caption", lambda content, *rest: asked_of.append(content) or word(content, *rest)
    )
    pictured = [training_scene(random.Random(seed), sprites) for seed in range(150)]
    assert len(asked_of) == 150 * judge_scenes.QUESTIONS
    assert not [content for content in asked_of if any(map(is_held_out, content.facts))]
    # Half of the questions are meant to be right; the standard deviation of the share is 0.02.
    assert 0.4 < np.mean([asked.label for one in pictured for asked in one.asked]) < 0.6


def test_a_color_is_not_asked_of_an_unpainted_object(sprites):
    for seed in range(100):
        pictured = training_scene(random.Random(seed), sprites)
        plain = {seen.name for seen in pictured.found if seen.color is None}
        for asked in pictured.asked:
            for name in plain:
                assert not any(f"{color} {name}" in asked.prompt for color in COLORS)


def test_a_sample_has_colors_only_where_its_prompt_paints():
    cat = Detection(name="cat", score=0.9, box=(10, 10, 50, 50), color="blue")
    house = Detection(name="house", score=0.9, box=(70, 10, 110, 50), color="red")
    content = Content("two_object", (Group("cat", color="blue"), Group("house")))
    sample = Sample(content=content, prompt="a blue cat and a house", seed=0, found=(cat, house))
    pictured = training_sample(random.Random(0), np.zeros((SIZE, SIZE, 3), np.uint8), sample)
    assert {seen.name: seen.color for seen in pictured.found} == {"cat": "blue", "house": None}


def test_patches_name_what_is_at_their_centres(sprites):
    scene = arrange(Content("colors", (Group("cat", color="blue"),)), sprites, random.Random(0))
    objects, colors = (x.reshape(PATCHES, PATCHES) for x in patch_targets(true_detections(scene), PATCHES))
    middle, corner = (PATCHES // 2, PATCHES // 2), (0, 0)
    assert (objects[middle], colors[middle]) == (list(THINGS).index("cat"), list(COLORS).index("blue"))
    assert (objects[corner], colors[corner]) == (len(THINGS), -1)
    x0, y0, x1, y1 = scene.objects[0].box
    share = (x1 - x0) * (y1 - y0) / SIZE**2
    assert abs((objects < len(THINGS)).mean() - share) < 4 / PATCHES  # one row or column on each side


def test_only_words_after_the_picture_are_said():
    tokens = torch.tensor([[5, PICTURE, PICTURE, 6, 7, PADDING]])
    words = torch.zeros(1, 6, 10)
    words[0, 2, 6] = words[0, 3, 7] = 100.0  # from the last of the picture on, each says the next
    assert saying_loss(words, tokens).item() == pytest.approx(0, abs=1e-6)
    words[0, 0] = words[0, 4] = torch.randn(10)
    assert saying_loss(words, tokens).item() == pytest.approx(0, abs=1e-6)


def test_the_judge_fits_into_the_package(tokenizer, tmp_path):
    model = new_emoji_judge(tokenizer)
    model.model.half()
    model.save_pretrained(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < judge_release.LARGEST


def test_samples_are_drawn_once_and_name_their_model(samples, monkeypatch):
    latents, drawn = next(judge_samples.read_samples(samples / "samples", "training"))
    assert latents.shape == (16, 32, 4, 4)
    assert [sample.seed for sample in drawn] == list(range(10_000_000, 10_000_016))
    assert not any(is_held_out(fact) for sample in drawn for fact in sample.content.facts)
    monkeypatch.setattr(judge_samples, "digest", lambda folder: "another model")
    with pytest.raises(ValueError, match="draw again"):
        next(judge_samples.read_samples(samples / "samples", "training"))


def test_a_batch_is_a_function_of_its_step_and_can_be_learned_from(sprites, tokenizer, samples, tmp_path):
    pipeline = SanaPipeline.embedded(device="cpu")
    pictures = SamplePictures.read(samples, "training", pipeline.autoencoder, cache=tmp_path)
    learning, calibrating = pictures.part(held_back=False), pictures.part(held_back=True)
    assert len(learning.samples) + len(calibrating.samples) == 16
    model = new_emoji_judge(tokenizer)
    batcher = QuestionBatcher(model.questions, tile_tokens=model.model.config.tile_tokens)
    batches = JudgeBatches(sprites, pictures, batcher, model.model.config, batch_size=6)
    batch, again = batches(3), batches(3)
    assert all(torch.equal(batch[name], again[name]) for name in ("tiles", "tokens", "labels", "objects"))
    loss = EmojiObjective(pairwise=0.1)(model, batch, None)
    loss.backward()
    unused = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert loss.isfinite()
    assert unused == []


def test_the_command_trains_measures_and_releases(sprites, tokenizer, samples, tmp_path, monkeypatch, capsys):
    save_sprites(DrawnSprites(), samples / "sprites")
    tokenizer.save_pretrained(samples / "tokenizer")
    monkeypatch.setattr("recipes.emoji.judge_evaluation.HELD_OUT_PER_TASK", 1)
    arguments = ["train_judge", "--data", str(samples), "--out", str(tmp_path), "--steps", "2", "--batch-size", "4"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--device", "cpu"])
    train_judge.main()
    report = json.loads((tmp_path / "emoji-judge.json").read_text())
    assert report["training"]["taken"] == 2
    assert report["samples"]["examples"] == 16
    assert report["scenes"]["tasks"].keys() == set(TASKS)

    for name in ("JUDGE", "RESULTS"):
        monkeypatch.setattr(judge_release, name, tmp_path / "package" / name.lower())
    (tmp_path / "package").mkdir()
    judge_release.release(tmp_path, machine="a test")
    released = VILAJudge.from_pretrained(tmp_path / "package" / "judge", dtype=torch.float32)
    assert released.model.config.tile_size == 144
    card = (tmp_path / "package" / "judge" / "README.md").read_text()
    assert "2 steps of 4 pictures" in card
    assert "$" not in card
    assert json.loads((tmp_path / "package" / "results").read_text())["machine"] == "a test"

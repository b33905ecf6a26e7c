import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.emoji import train_autoencoder
from recipes.emoji.release import autoencoder_training
from recipes.emoji.rendering import render_scenes
from recipes.emoji.scenes import render, scene_at
from recipes.emoji.sprites import DrawnSprites, FolderSprites, SpriteSheet, save_sprites
from recipes.emoji.train_autoencoder import RenderedScenes
from sana_ae import DCAE


def test_scenes_are_the_same_for_any_number_of_processes():
    one, two = (render_scenes(600, DrawnSprites(), processes=n, progress=False) for n in (1, 2))
    assert np.array_equal(one, two)
    sheet = SpriteSheet(DrawnSprites())
    assert np.array_equal(one[511], render(scene_at(511, sheet), sheet))


def test_saved_sprites_are_drawn_as_those_they_were_saved_from(tmp_path):
    save_sprites(DrawnSprites(), tmp_path)
    saved = render_scenes(20, FolderSprites(tmp_path), progress=False)
    assert np.array_equal(saved, render_scenes(20, DrawnSprites(), progress=False))


def test_a_folder_that_lacks_sprites_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no picture of"):
        FolderSprites(tmp_path)


def test_an_epoch_shows_every_picture_once():
    scenes = RenderedScenes(render_scenes(12, DrawnSprites(), progress=False), batch_size=4)
    epochs = [[key for step in steps for key in scenes(step)["key"]] for steps in ((0, 1, 2), (3, 4, 5))]
    assert all(sorted(epoch, key=int) == [str(number) for number in range(12)] for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert scenes(1)["images"].shape == (4, 3, 128, 128)


def test_the_decoder_is_refined_and_the_latents_stay(tmp_path, monkeypatch):
    torch.manual_seed(0)
    narrow = (8, 8, 16, 16, 32, 32)
    given = DCAE(
        replace(train_autoencoder.EMOJI_DCAE, encoder_block_out_channels=narrow, decoder_block_out_channels=narrow)
    )
    given.save_pretrained(tmp_path / "given")
    save_sprites(DrawnSprites(), tmp_path / "sprites")
    options = f"--out {tmp_path} --start-from {tmp_path}/given --sprites {tmp_path}/sprites --device cpu --workers 1"
    sizes = "--pictures 8 --batch-size 2 --steps 2 --head-steps 1"
    monkeypatch.setattr(sys, "argv", ["train_autoencoder", *options.split(), *sizes.split()])
    monkeypatch.setattr(train_autoencoder, "HELD_OUT", 12)
    train_autoencoder.main()
    refined = DCAE.from_pretrained(tmp_path / "autoencoder")
    for name, weight in refined.state_dict().items():
        assert torch.equal(weight, given.state_dict()[name]) == name.startswith("encoder."), name
    assert refined.config == given.config
    report = json.loads(Path(tmp_path / "autoencoder.json").read_text())
    assert list(report["phases"]) == ["before", "decoder", "head"]
    assert [(phase["trains"], phase["steps"]) for phase in report["training"]] == [("decoder", 2), ("decoder_head", 1)]
    assert autoencoder_training(report) == (
        "2 steps of its decoder with L1 + multi-scale SSIM, "
        "then 1 steps of its decoder's head with L1 + multi-scale SSIM + adversarial"
    )
    assert (tmp_path / "autoencoder.png").exists()

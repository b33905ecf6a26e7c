import json

import pytest
import torch
from PIL import Image

from recipes.emoji.prune import CaptionedScenes, embedded, kept_blocks, plot
from recipes.emoji.train_transformer import EncodedScenes
from sana import SanaPipeline
from sana.pruning.calibration import Calibration, measure_importance


@pytest.fixture
def pipeline(small_folder):
    return SanaPipeline.from_pretrained(small_folder, device="cpu")


def test_scenes_come_with_the_embeddings_of_the_pipelines_own_text_encoder(pipeline):
    tokenizer = pipeline.caption_encoder.tokenizer
    padded = tokenizer(["a dog", "", "一只猫"], padding="max_length", max_length=8).input_ids
    tokens = torch.tensor(padded)[:, None].expand(-1, 4, -1)  # (scenes, languages, tokens)
    scenes = {"latents": torch.randn(3, 8, 2, 2), "tokens": tokens}
    encoded = EncodedScenes(scenes, tokens[1, 0], scaling_factor=2.0, batch_size=2, dropout=0.0)
    plain, batch = encoded(0), CaptionedScenes(encoded, pipeline)(0)
    expected = pipeline.caption_encoder.text_encoder(
        input_ids=plain["caption"], attention_mask=plain["caption_mask"]
    ).last_hidden_state
    assert torch.equal(batch["caption"], expected)
    assert torch.equal(batch["latents"], plain["latents"])
    assert not batch["caption"].requires_grad


def test_token_ids_go_to_the_device_of_the_text_encoder(pipeline):
    pytest.importorskip("transformers", "5", "Gemma 2 of transformers 4 asks for autocast, which meta has not")
    encoder = pipeline.caption_encoder.text_encoder.to("meta")  # any device but the batch's
    given = {}
    encoder.register_forward_pre_hook(lambda module, args, named: given.update(named), with_kwargs=True)
    batch = {"caption": torch.ones(2, 3, dtype=torch.long), "caption_mask": torch.ones(2, 3, dtype=torch.bool)}
    assert embedded(batch, encoder)["caption"].shape == (2, 3, encoder.config.hidden_size)
    assert given["input_ids"].device == given["attention_mask"].device == torch.device("meta")


def test_importance_keeps_the_blocks_that_matter_most(pipeline):
    calibration = Calibration(prompts=("a dog",), seed=0, steps=1, guidance_scale=1.0)
    importance, _ = measure_importance(pipeline, calibration, branches=(), progress=False)
    assert kept_blocks("importance", 1, importance, 0) == [int(importance.values.argmax())]
    assert kept_blocks("uniform", 2, importance, 0) == [0, 1]
    assert kept_blocks("random", 1, importance, 5) == kept_blocks("random", 1, importance, 5)


def test_the_plot_has_every_way(tmp_path):
    losses = [
        {"selector": selector, "keep": keep, "seed": seed, "before": 2.0 + seed, "after": 1.0}
        for selector in ("importance", "random")
        for keep in (3, 4)
        for seed in (0, 1)
    ]
    report = {"losses": losses, "unpruned": 0.5, "plan": {"steps": 100}}
    plot(json.loads(json.dumps(report)), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 800

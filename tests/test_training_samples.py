import json

import torch
from PIL import Image

from sana import SanaPipeline
from sana.training.samples import TrainingSamples
from sana.training.settings import SampleSettings


def test_samples_are_the_pictures_of_the_pipeline(small_folder, tmp_path):
    pipeline = SanaPipeline.from_pretrained(small_folder, device="cpu")
    prompts = ("two red apples", "a dog")
    settings = SampleSettings(prompts=prompts, steps=2, guidance_scale=3.0, seed=7)
    draw = TrainingSamples(
        settings, pipeline.autoencoder, pipeline.caption_encoder, null_caption=None, shift=3.0, precision="fp32"
    )
    draw(pipeline.transformer, tmp_path / "step-00000001")
    expected = pipeline(prompts, [7, 8], steps=2, guidance_scale=3.0, progress=False)
    for seed, picture in zip((7, 8), expected, strict=True):
        drawn = Image.open(tmp_path / "step-00000001" / f"{seed}.png")
        # Decoded one by one here and together there, which may round a pixel the other way.
        difference = torch.frombuffer(bytearray(drawn.tobytes()), dtype=torch.uint8).int()
        difference -= torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).int()
        assert difference.abs().max() <= 1
    record = json.loads(drawn.text["sana"])
    assert record == {"prompt": "a dog", "seed": 8, "steps": 2, "guidance_scale": 3.0}


def test_what_is_drawn_leaves_no_trace_in_training(small_folder, tmp_path):
    pipeline = SanaPipeline.from_pretrained(small_folder, device="cpu")
    draw = TrainingSamples(
        SampleSettings(prompts=("a dog",), steps=1),
        pipeline.autoencoder,
        pipeline.caption_encoder,
        null_caption=None,
        shift=3.0,
        precision="bf16",
    )
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(pipeline.transformer, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.grad is None for weight in pipeline.transformer.parameters())

"""The seams between packages: each consumer owns its interface, and others meet it without importing it."""

import torch
from PIL import Image

from sana import SanaPipeline
from sana_dit import SanaConfig, SanaTransformer
from sana_scale import Sampler
from sana_train import FlowMatching, TrainConfig, Trainer


def tiny_transformer():
    torch.manual_seed(0)
    config = SanaConfig(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        caption_channels=6,
        qk_norm=True,
    )
    return SanaTransformer(config)


def test_a_pipeline_is_a_sampler(small_folder):
    pipeline = SanaPipeline.from_pretrained(small_folder, device="cpu")
    assert isinstance(pipeline, Sampler)
    images = pipeline("a cat", range(2), steps=1, progress=False)
    assert [type(image) for image in images] == [Image.Image, Image.Image]


def test_the_transformer_trains_by_flow_matching_and_its_average_loads_again(tmp_path):
    draw = torch.Generator().manual_seed(0)
    batch = {
        "latents": torch.randn(8, 4, 2, 2, generator=draw),
        "caption": torch.randn(8, 3, 6, generator=draw),
        "caption_mask": torch.ones(8, 3),
        "key": [str(slot) for slot in range(8)],
    }
    model = tiny_transformer()
    config = TrainConfig(run_dir=str(tmp_path), steps=60, ema_decay=0.5, log_every=1, progress=False)
    trainer = Trainer(model, FlowMatching(), torch.optim.AdamW(model.parameters(), lr=3e-3), lambda step: batch, config)
    first = trainer.train_step().loss
    trainer.fit()
    loaded = SanaTransformer.from_pretrained(tmp_path / "model")
    for name, average in trainer.ema.averages.items():
        assert torch.equal(loaded.get_parameter(name), average), name
    assert trainer.train_step().loss < first

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sana.training.model import make_model, model_config
from sana.training.optimizer import make_optimizer, query_key_value
from sana.training.run import make_trainer, training_data
from sana.training.settings import AdamWSettings, CAME8bitSettings, CAMESettings, ModelSettings
from sana.training.settings_reading import read_settings
from sana_dit import SANA_1_5_1_6B, SanaTransformer
from sana_train import CAME, CAME8bit, CheckpointError, Draws, FlowMatching, TrainConfig, write_shard
from sana_train.caption_padding import without_padding
from sana_train.preparation import prepare

CPU = torch.device("cpu")


@pytest.fixture
def settings(tiny_run):
    def read(*changes):
        return read_settings(tiny_run, changes)

    return read


def test_a_run_file_becomes_a_trainer(settings):
    trainer = make_trainer(
        settings("train.validate_every=2", "validation.shards=data", "validation.samples=4"), device=CPU
    )
    assert isinstance(trainer.model, SanaTransformer)
    assert isinstance(trainer.optimizer, CAME8bit)
    assert trainer.batches(0)["latents"].shape == (4, 4, 2, 2)
    assert trainer.fit()
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/loss" in line] == [2, 4]


def test_random_weights_are_named_by_the_seed(settings):
    model = settings().model
    first, again, other = (make_model(model, seed=seed, device=CPU).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in first.items())


def test_a_checkpoint_brings_its_weights_and_shape(settings, tmp_path):
    source = make_model(settings().model, seed=5, device=CPU)
    source.null_caption = torch.ones(6, 8)
    source.save_pretrained(tmp_path / "pipeline" / "transformer")
    (tmp_path / "pipeline" / "model_index.json").write_text('{"_class_name": "SanaPipeline"}')
    for init in (tmp_path / "pipeline", tmp_path / "pipeline" / "transformer"):
        chosen = ModelSettings(init=str(init), weights="bf16")
        assert model_config(chosen) == source.config
        model = make_model(chosen, seed=0, device=CPU)
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
        assert torch.equal(model.final.proj.weight, source.final.proj.weight.bfloat16())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # inductor's own
def test_a_compiled_block_learns_from_latents_of_several_sizes(settings):
    plain = make_model(settings("model.num_layers=1").model, seed=0, device=CPU)
    compiled = make_model(settings("model.num_layers=1").model, seed=0, device=CPU)
    prepare(compiled, TrainConfig(run_dir="", steps=1, compile=True))
    for size in ((4, 4), (2, 8)):
        inputs = torch.randn(2, 4, *size), torch.tensor([7.0, 700.0]), torch.randn(2, 6, 8), torch.ones(2, 6)
        for model in (plain, compiled):
            model.zero_grad()
            model(*inputs).square().mean().backward()
        for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)  # sums in another order


def test_the_embedded_model_can_be_trained_on(settings):
    config = model_config(ModelSettings(init="embedded"))
    assert (config.caption_channels, config.sample_size) == (256, 4)
    embedded = replace(settings(), model=ModelSettings(init="embedded"))
    with pytest.raises(ValueError, match="data has 4 latent channels and the model takes 32: encode for this model"):
        make_trainer(embedded, device=CPU)


def test_q_k_and_v_are_joined_as_nvlabs_holds_them():
    with torch.device("meta"):
        model = SanaTransformer(replace(SANA_1_5_1_6B, num_layers=1))
    groups = query_key_value(model)
    assert [len(group) for group in groups] == [3, 2]
    assert groups[0][0] is model.blocks[0].self_attn.to_q.weight
    assert groups[1] == [model.blocks[0].cross_attn.to_k.weight, model.blocks[0].cross_attn.to_v.weight]


@pytest.mark.parametrize(
    ("chosen", "kind"),
    [
        (AdamWSettings(lr=1e-3, betas=(0.8, 0.9)), torch.optim.AdamW),
        (CAMESettings(lr=1e-3, weight_decay=0.1, join_qkv=True), CAME),
        (CAME8bitSettings(lr=1e-3, block_size=64, bias_correction=True), CAME8bit),
    ],
)
def test_an_optimizer_has_the_settings_of_its_section(settings, chosen, kind):
    optimizer = make_optimizer(make_model(settings().model, seed=0, device=CPU), chosen, seed=3)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    for name in ("lr", "betas", "weight_decay", "block_size", "bias_correction"):
        if hasattr(chosen, name):
            assert group[name] == getattr(chosen, name)


def test_dropped_captions_need_one_to_stand_for_them(settings):
    with pytest.raises(
        ValueError, match=r"caption_dropout is 0\.1 and \[model\] has no null caption: give \[captions\]"
    ):
        make_trainer(settings("objective.caption_dropout=0.1"), device=CPU)


def test_the_encoder_of_captions_makes_the_null_caption(settings, small_folder, tmp_path):
    changes = ("model.caption_channels=16", f"data.shards={tmp_path / 'wide'}", "objective.caption_dropout=0.5")
    _write_wide(tmp_path / "wide" / "0.safetensors")
    trainer = make_trainer(settings(*changes, f"captions.checkpoint={small_folder}"), device=CPU)
    assert trainer.model.null_caption.shape == (300, 16)
    trainer.fit()
    saved = SanaTransformer.from_pretrained(Path(trainer.run_dir) / "model")
    assert torch.equal(saved.null_caption, trainer.model.null_caption)


def _write_wide(path):
    """A shard of what the encoder of the small pipeline gives."""
    from sana_train import write_shard

    latents, caption, mask = torch.randn(8, 4, 2, 2), torch.randn(8, 5, 16), torch.ones(8, 5)
    write_shard(path, latents, caption, mask, keys=[str(key) for key in range(8)], scaling_factor=1.0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["data.shards=nowhere"], FileNotFoundError, "there is no folder nowhere"),
        (["model.in_channels=3"], ValueError, "data has 4 latent channels and the model takes 3"),
        (["model.patch_size=2", "model.sample_size=3"], ValueError, "sample_size is 3 and patch_size 2"),
        (["model.patch_size=4", "model.sample_size=4"], ValueError, "latents of 2x2 cells; .* multiples of 4"),
        (["model.guidance_embeds=true"], ValueError, "is a Sprint model, which is distilled"),
        (["data.batch_size=9"], ValueError, "batch_size is 9, but data has at most 8 samples"),
    ],
)
def test_parts_that_do_not_go_together_are_said(settings, changes, error, message):
    with pytest.raises(error, match=message):
        make_trainer(settings(*changes), device=CPU)


def test_a_checkpoint_that_is_none_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has no config\.json: give the folder or Hub id"):
        model_config(ModelSettings(init=str(tmp_path / "empty")))
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        model_config(ModelSettings(init=str(tmp_path / "x.safetensors")))
    (tmp_path / "empty" / "config.json").write_text('{"more": 1}')
    with pytest.raises(ValueError, match=r"empty/config\.json has unknown fields \['more'\]"):
        model_config(ModelSettings(init=str(tmp_path / "empty")))


def test_the_shape_of_a_single_file_is_known_without_its_weights(settings, tmp_path, monkeypatch):
    source = make_model(settings().model, seed=5, device=CPU)
    source.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "diffusion_pytorch_model.safetensors"
    devices, load = [], SanaTransformer.load_state_dict

    def look(model, state, **options):
        devices.extend(weight.device.type for weight in state.values())
        return load(model, state, **options)

    monkeypatch.setattr(SanaTransformer, "load_state_dict", look)
    assert model_config(ModelSettings(init=str(weights))) == source.config
    assert set(devices) == {"meta"}


def test_the_same_weights_go_on_at_other_positions(settings, tmp_path):
    source = make_model(settings().model, seed=5, device=CPU)
    source.null_caption = torch.ones(6, 8)
    source.save_pretrained(tmp_path / "model")
    chosen = ModelSettings(init=str(tmp_path / "model"), positions={"sample_size": 4, "interpolation_scale": 2.0})
    model = make_model(chosen, seed=0, device=CPU)
    assert model.config == model_config(chosen) == replace(source.config, sample_size=4, interpolation_scale=2.0)
    expected = source.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert torch.equal(model.null_caption, source.null_caption)
    latents, time, caption = torch.randn(1, 4, 4, 4), torch.ones(1), torch.randn(1, 3, 8)
    assert not torch.allclose(model(latents, time, caption), source(latents, time, caption))
    assert all(weight.requires_grad and not weight.is_meta for weight in model.parameters())


def test_a_step_on_captions_without_padding_has_the_gradients_of_one_on_all_tokens(settings):
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(40) < torch.tensor([3, 9, 2, 21, 1, 7, 16, 20])[:, None]
    latents, caption = (torch.randn(8, *shape, generator=draw) for shape in ((4, 2, 2), (40, 8)))
    write_shard("data/0.safetensors", latents, caption, mask, keys=list("abcdefgh"), scaling_factor=0.5)
    config = settings("data.batch_size=8")
    model = make_model(config.model, seed=0, device=CPU)
    for block in model.blocks:  # a caption's part in an untrained model is small: make it count
        torch.nn.init.normal_(block.cross_attn.to_out.weight)
    model.null_caption = torch.randn(40, 8, generator=draw)
    objective = FlowMatching(caption_dropout=0.5, null_caption=model.null_caption)
    batch, results = training_data(config)(0), []
    for given in (batch, without_padding(batch)):
        loss = objective(model, given, Draws(0, 0, range(8)))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        results.append((given["caption"].shape[1], loss, torch.cat([gradient.flatten() for gradient in gradients])))
    (whole, expected_loss, expected), (cut, loss, found) = results
    assert (whole, cut) == (40, 32)
    # fp32 sums in another order, of two blocks
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def _spoil(path):
    """Change one value of a shard and leave its header, and so the hash that it says, as they were."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_shard_that_changed_behind_its_header_is_refused_when_a_run_is_resumed(settings):
    make_trainer(settings(), device=CPU).fit()
    _spoil(Path("data/0.safetensors"))
    with pytest.raises(ValueError, match=r"0\.safetensors has changed since it was written"):
        make_trainer(settings(), device=CPU, resume=True)
    assert make_trainer(settings(), device=CPU, resume=True, allow_changes=True).step == 4


def test_a_shard_that_was_copied_is_the_same_shard(settings):
    make_trainer(settings(), device=CPU).fit()
    os.utime("data/0.safetensors", (1, 1))
    assert make_trainer(settings(), device=CPU, resume=True).step == 4


def test_a_shard_that_changed_is_noticed_when_a_run_is_resumed(settings, tmp_path):
    trainer = make_trainer(settings(), device=CPU)
    trainer.fit()
    draw = torch.Generator().manual_seed(1)
    write_shard(
        "data/0.safetensors",
        torch.randn(8, 4, 2, 2, generator=draw),
        torch.randn(8, 5, 8, generator=draw),
        torch.ones(8, 5, dtype=torch.bool),
        keys=[f"sample {number}" for number in range(8)],
        scaling_factor=0.5,
    )
    with pytest.raises(CheckpointError, match=r"was started otherwise \(data\.shards: 1 changed: 0\.safetensors\)"):
        make_trainer(settings(), device=CPU, resume=True)
    Path("data/0.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no shard"):
        make_trainer(settings(), device=CPU, resume=True)

import pytest

from sana.training.settings import CAME8bitSettings
from sana.training.settings_reading import read_settings
from sana_dit import SANA_1_5_4_8B
from sana_train import CaptionSampler

RUN = """
[train]
run_dir = "runs/a"
steps = 10
warmup_steps = 5
[model]
preset = "SANA_1_5_4_8B"
weights = "bf16"
[optimizer]
kind = "came8bit"
lr = 2e-5
[data]
shards = "data"
batch_size = 4
"""


@pytest.fixture
def read(tmp_path):
    def read(*changes, text=RUN):
        (tmp_path / "run.toml").write_text(text)
        return read_settings(tmp_path / "run.toml", changes)

    return read


def test_what_a_file_leaves_out_is_as_the_paper_trains(read):
    settings = read()
    assert settings.model.config == SANA_1_5_4_8B
    assert settings.optimizer == CAME8bitSettings(lr=2e-5)
    assert settings.objective.caption_dropout == 0.1
    assert settings.samples is settings.validation is None


def test_fields_replace_those_of_a_preset(read):
    assert read("model.num_layers=2", "model.interpolation_scale=none").model.config.num_layers == 2
    shape = "num_layers = 1\nnum_attention_heads = 2\nnum_cross_attention_heads = 2\ncross_attention_head_dim = 32"
    config = read(text=RUN.replace('preset = "SANA_1_5_4_8B"', shape)).model.config
    assert (config.num_layers, config.width) == (1, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.stepz=1"], r"\[train\] has no stepz, perhaps steps was meant; it has run_dir, steps, seed"),
        (["trian.steps=1"], r"has a section \[trian\]; it must be one of \[train\], \[model\], \[optimizer\]"),
        (["train.step_in_backward=true"], r"\[train\] step_in_backward with accumulate 1 and grad_clip 1\.0"),
        (
            ["train.step_in_backward=true", "train.grad_clip=none", "train.accumulate=2"],
            "step_in_backward with accumulate 2 and grad_clip None",
        ),
        (
            ["train.step_in_backward=true", "train.grad_clip=none", "optimizer.join_qkv=true"],
            "step_in_backward and .* join_qkv are both true",
        ),
        (["train.warmup_steps=11"], "warmup_steps 11 and decay_steps 0 do not fit into steps 10"),
        (["train.validate_every=5"], r"\[validation\] is missing and \[train\] validate_every is 5"),
        (["validation.shards=x"], r"\[validation\] is given and \[train\] validate_every is 0: give both, or neither"),
        (["samples.prompts=['a']", "train.sample_every=5"], r"\[samples\] needs \[captions\] and \[autoencoder\]"),
        (["samples.prompts=[]", "train.sample_every=5"], "prompts is empty"),
        (["autoencoder.checkpoint=x"], r"\[autoencoder\] is only used to draw \[samples\]"),
        (["model.init=x"], r"\[model\] has init and preset: a checkpoint brings its own shape"),
        (["model.preset=SANA_9B"], r"preset is 'SANA_9B'; it must be one of SANA_0_6B, SANA_1_5_1_6B"),
        (["model.num_layers=0"], r"\[model\] num_layers is 0; it must be at least 1"),
        (["model.depth=3"], r"\[model\] has no depth; it has init, preset, weights, kernels, in_channels"),
        (["model.weights=fp32", "optimizer.stochastic_rounding=true"], "stochastic_rounding is true and .*fp32"),
        (["model.kernels=eager"], r"kernels is 'eager'; it must be one of 'reference', 'fused'"),
        (["optimizer.kind=sgd"], "kind is 'sgd'; it must be one of 'came8bit', 'came', 'adamw'"),
        (["optimizer.kind=adamw", "optimizer.layout=row"], "of kind 'adamw' has no layout; it has lr, betas, eps"),
        (["optimizer.kind=came", "optimizer.block_size=64"], "of kind 'came' has no block_size"),
        (["optimizer.betas=[0.9, 0.99]"], "betas is .*; it must be a list of 3"),
        (["data.batch_size=0"], r"\[data\] batch_size is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_is_said(read, changes, message):
    with pytest.raises(ValueError, match=message):
        read(*changes)


def test_a_missing_section_or_shape_is_said(read):
    with pytest.raises(ValueError, match=r"run\.toml lacks \[model\], \[optimizer\], \[data\]"):
        read(text='[train]\nrun_dir = "a"\nsteps = 1')
    with pytest.raises(ValueError, match=r"\[model\] needs init \(a checkpoint\), preset"):
        read(text=RUN.replace('preset = "SANA_1_5_4_8B"', ""))
    with pytest.raises(ValueError, match=r"\[optimizer\] lacks kind; it must be one of"):
        read(text=RUN.replace('kind = "came8bit"', ""))


def test_a_checkpoint_keeps_its_shape_but_for_its_positions(read):
    init = RUN.replace('preset = "SANA_1_5_4_8B"', 'init = "x/y"')
    model = read("model.sample_size=64", "model.interpolation_scale=1", text=init).model
    assert model.positions == {"sample_size": 64, "interpolation_scale": 1.0}
    with pytest.raises(ValueError, match=r"has init and num_layers: .* \(only sample_size and interpolation_scale may"):
        read("model.num_layers=3", text=init)


def test_captions_are_drawn_as_data_says(read):
    assert read().data.captions() == CaptionSampler(tau=0.1)
    any_of_them = read("data.caption_tau=none").data.captions()
    assert not any_of_them.needs_scores
    upstream = read("data.caption_threshold=25", "data.caption_mode=power").data.captions()
    assert upstream == CaptionSampler(tau=0.1, threshold=25.0, mode="power")
    with pytest.raises(ValueError, match=r"\[data\] tau is 0.0; it must be positive"):
        read("data.caption_tau=0")

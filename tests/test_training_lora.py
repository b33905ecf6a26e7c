"""Runs with [lora]: small checkpoints, exact resumption, and a folder that diffusers and `sana generate` load."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.checkpoint import FileSystemReader
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from sana import SanaPipeline
from sana.commands import app
from sana.training.lora import make_lora
from sana.training.memory import StepShape, _inputs, activation_bytes, forward_flops
from sana.training.model import make_model, model_config
from sana.training.plan import plan_training
from sana.training.run import make_trainer
from sana.training.settings import LoraSettings
from sana.training.settings_reading import read_settings
from sana_dit import SANA_1_5_1_6B, SanaTransformer, load_lora
from sana_train import CheckpointError, TrainConfig, write_shard

CPU = torch.device("cpu")
ADAPTER = "run/model/pytorch_lora_weights.safetensors"


@pytest.fixture
def lora_run(tiny_run):
    """The run file of the tiny run, which trains an adapter on what that run would start from."""
    base = make_model(read_settings(tiny_run).model, seed=5, device=CPU)
    for block in base.blocks:  # a caption's part in an untrained model is small: make it count
        torch.nn.init.normal_(block.cross_attn.to_out.weight, std=0.1)
    base.save_pretrained("base")
    head, _, rest = tiny_run.read_text().partition("[model]")
    tail = rest[rest.index("[optimizer]") :]
    tiny_run.write_text(f'{head}[model]\ninit = "base"\n\n[lora]\nrank = 2\nalpha = 3\n\n{tail}')
    return tiny_run


@pytest.fixture
def settings(lora_run):
    return lambda *changes: read_settings(lora_run, changes)


def factors(folder):
    return load_file(Path(folder) / "model" / "pytorch_lora_weights.safetensors")


def train_in_two_processes(path, *changes):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sana"]
    options = [option for change in changes for option in ("--set", change)]
    run = [*command, "train", str(path), "--device", "cpu", "--no-progress", *options]
    ended = subprocess.run(run, capture_output=True, text=True, cwd=path.parent, check=False)
    assert ended.returncode == 0, ended.stderr


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.parametrize("ema", ["none", "0.9"])
def test_the_folder_of_a_run_is_its_adapter(settings, ema):
    trainer = make_trainer(settings(f"train.ema_decay={ema}"), device=CPU)
    before = {name: weight.clone() for name, weight in trainer.model.transformer.state_dict().items()}
    assert trainer.fit()
    transformer = trainer.model.transformer
    assert equal(transformer.state_dict(), before)
    assert [path.name for path in Path("run/model").iterdir()] == [Path(ADAPTER).name]
    loaded = SanaTransformer.from_pretrained("base")
    inputs = torch.randn(2, 4, 2, 2), torch.tensor([7.0, 700.0]), torch.randn(2, 5, 8)
    with torch.no_grad():
        plain = loaded(*inputs)
        load_lora(loaded, "run/model")
        assert not torch.allclose(loaded(*inputs), plain, atol=1e-4)
    trained = [parameter for one in trainer.model.factors.values() for parameter in (one.down, one.up)]
    saved = [factors("run")[f"transformer.{name}.lora_{part}.weight"] for name in trainer.model._names for part in "AB"]
    # The average is another adapter than the last weights.
    assert all(map(torch.equal, trained, saved)) is (ema == "none")


def test_checkpoints_hold_the_factors_and_no_weights(settings):
    trainer = make_trainer(settings(), device=CPU)
    trainer.fit()
    index = FileSystemReader("run/checkpoints/step-00000004").read_metadata().state_dict_metadata
    kept = {name for name in index if not name.startswith("optimizer.")}
    names = trainer.model.state_dict().keys()
    assert kept == {f"{kind}.{name}" for kind in ("model", "average") for name in names}
    assert len(names) == 2 * 2 * 8  # factors, blocks, layers


@pytest.mark.parametrize("extra", [(), ("train.activation_checkpointing=true", "model.weights=bf16")])
def test_a_run_that_was_interrupted_ends_in_the_same_bits(settings, extra):
    make_trainer(settings("train.run_dir=straight", *extra), device=CPU).fit()
    make_trainer(settings("train.checkpoint_every=2", *extra), device=CPU).fit()
    newest = Path("run/checkpoints/step-00000004")
    newest.rename(newest.with_name("lost"))  # as if the run had been killed between its two checkpoints
    again = make_trainer(settings("train.checkpoint_every=2", *extra), device=CPU, resume=True)
    assert again.step == 2
    again.fit()
    assert equal(factors("run"), factors("straight"))


def test_recomputed_blocks_learn_the_same(settings):
    for recomputed in ("true", "false"):
        changes = f"train.run_dir=run-{recomputed}", f"train.activation_checkpointing={recomputed}"
        make_trainer(settings(*changes), device=CPU).fit()
    assert equal(factors("run-true"), factors("run-false"))


def test_a_run_is_not_resumed_beside_other_weights_or_with_another_adapter(settings):
    make_trainer(settings(), device=CPU).fit()
    with pytest.raises(CheckpointError, match=r"was started otherwise \(lora.*alpha.* 4\.0"):
        make_trainer(settings("lora.alpha=4"), device=CPU, resume=True)
    base = SanaTransformer.from_pretrained("base")
    base.final.proj.bias.data += 1
    base.save_pretrained("base")
    with pytest.raises(CheckpointError, match=r"was started otherwise \(frozen weights [0-9a-f]{64} ->"):
        make_trainer(settings(), device=CPU, resume=True)


def test_a_run_is_not_resumed_with_other_factors_even_if_changes_are_allowed(lora_run, settings):
    make_trainer(settings("lora.rank=3", "lora.alpha=none"), device=CPU).fit()
    same = ["lora.rank=3", "lora.alpha=3", 'lora.targets=["to_out.0", "to_v", "to_k", "to_q"]']
    assert make_trainer(settings(*same[:2]), device=CPU, resume=True).step == 4  # no alpha is alpha = rank
    assert make_trainer(settings(*same), device=CPU, resume=True, allow_changes=True).step == 4
    words = "trains an adapter of rank 3 in to_k, to_out.0, to_q, to_v and is now to train"
    for changes, now in (
        (["lora.rank=2"], "an adapter of rank 2 in to_k, to_out.0, to_q, to_v"),
        (["lora.rank=3", 'lora.targets=["to_q"]'], "an adapter of rank 3 in to_q"),
    ):
        for allowed in (False, True):
            with pytest.raises(CheckpointError, match=f"{words} {now}, which .*: give the same .lora., or a new"):
                make_trainer(settings(*changes), device=CPU, resume=True, allow_changes=allowed)
    lora_run.write_text(lora_run.read_text().replace("[lora]\nrank = 2\nalpha = 3\n", ""))
    with pytest.raises(CheckpointError, match=f"{words} the whole model"):
        make_trainer(settings(), device=CPU, resume=True)


def test_two_processes_train_the_adapter_of_one(lora_run, settings):
    # Sums of gradients round differently: plain gradient descent would keep that small, CAME divides by them.
    changes = ["optimizer.kind=adamw", "optimizer.eps=1.0"]
    make_trainer(settings("train.run_dir=one", *changes), device=CPU).fit()
    train_in_two_processes(lora_run, *changes)
    one, two = factors("one"), factors("run")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-5, atol=1e-8)
    assert make_trainer(settings(*changes), device=CPU, resume=True).step == 4  # by one process


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["growth.plan=growth.json", "growth.warmup_steps=1"], r"\[lora\] and \[growth\] are both given"),
        (["optimizer.join_qkv=true"], r"\[lora\] and \[optimizer\] join_qkv"),
        (["model.weights=bf16", "optimizer.stochastic_rounding=true"], r"\[lora\] and \[optimizer\] stochastic"),
        (["lora.rank=1.5"], r"\[lora\] rank is 1\.5; it must be a whole number"),
        (["lora.dropout=0.1"], r"\[lora\] has no dropout"),
    ],
)
def test_what_does_not_go_with_an_adapter_is_said(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(*changes)


def test_an_adapter_needs_a_model_and_layers(lora_run, settings):
    for changes in (["lora.rank=0"], ['lora.targets=["to_x"]']):
        with pytest.raises(ValueError, match=r"^\[lora\] (rank is 0|targets to_x are no linear layers)"):
            plan_training(settings(*changes))
    lora_run.write_text(lora_run.read_text().replace('init = "base"', 'preset = "SANA_0_6B"'))
    with pytest.raises(ValueError, match=r"\[lora\] needs \[model\] init"):
        settings()


def test_a_cascade_has_no_adapter(lora_run):
    lora_run.write_text(lora_run.read_text().replace('run_dir = "run"\n', "") + '\n[cascade]\nrun_dir = "all"\n')
    lora_run.write_text(lora_run.read_text() + '\n[[stage]]\nname = "first"\n')
    result = CliRunner().invoke(app, ["train", str(lora_run), "--plan"])
    assert result.exit_code == 2
    assert "stage first: has [lora], which trains one adapter in a run of its own" in result.stderr


def test_a_plan_counts_frozen_weights_once_and_the_factors_fourfold(settings):
    plain = plan_training(settings("optimizer.kind=adamw", "model.weights=bf16"))
    factors = make_trainer(settings(), device=CPU).model
    count = sum(parameter.numel() for parameter in factors.parameters())
    assert plain.memory["weights"] == 2 * plain.parameters + 4 * count
    assert plain.memory["gradients"] == plain.memory["weight average"] == 4 * count
    assert plain.memory["optimizer state"] == 8 * count  # AdamW's two moments
    assert plain.lines["lora"] == f"rank 2, alpha 3: {count:,} parameters in 16 layers, beside frozen weights"
    assert plain.warnings == ()
    two = plan_training(settings("optimizer.kind=adamw", "model.weights=bf16"), processes=2)
    assert two.memory["weights"] == 2 * plain.parameters + 2 * count
    assert two.memory["adapter gathered from the other GPUs"] == 4 * count


def test_a_step_with_frozen_weights_costs_two_forward_passes(settings):
    config, shape = replace(SANA_1_5_1_6B, num_layers=8), StepShape(samples=1, height=32, width=32, tokens=300)
    with torch.device("meta"):
        model = SanaTransformer(config)
        make_lora(model, LoraSettings(rank=16), seed=0)
        with FlopCounterMode(display=False) as counter:
            model(*_inputs(config, shape)).sum().backward()
    # The factors and the products within attention, which take two passes back, add 3%; before the first factors, in
    # one layer of the first of 8 blocks and in what comes before it, nothing flows back.
    assert counter.get_total_flops() == pytest.approx(2 * forward_flops(config, shape), rel=0.05)
    tiny, at = model_config(settings().model), StepShape(samples=1, height=2, width=2, tokens=5)
    for passes, recomputed in ((2, "false"), (3, "true")):
        plan = plan_training(settings(f"train.activation_checkpointing={recomputed}"))
        assert plan.flops_per_image == passes * forward_flops(tiny, at)


def test_the_activations_of_an_adapter_are_counted():
    heads = {"num_attention_heads": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 64}
    config = replace(SANA_1_5_1_6B, num_layers=5, caption_channels=32, **heads)
    shape = StepShape(samples=2, height=8, width=8, tokens=10)
    model, kept = SanaTransformer(config), {}
    make_lora(model, LoraSettings(rank=4), seed=0)
    with saved_tensors_hooks(lambda x: kept.setdefault(x.untyped_storage().data_ptr(), x), lambda x: x):
        model(torch.randn(2, 32, 8, 8), torch.rand(2), torch.randn(2, 10, 32), torch.ones(2, 10))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    saved = sum(x.untyped_storage().nbytes() for pointer, x in kept.items() if pointer not in weights)
    train = TrainConfig(run_dir="runs", steps=1)
    counted = activation_bytes(config, shape, train=train, dtype=torch.float32, lora=LoraSettings(rank=4))
    # What is alive for a moment is at most that of one block, of which there are five.
    assert saved < counted < 1.5 * saved
    assert counted < activation_bytes(config, shape, train=train, dtype=torch.float32)


PICTURES = """
[train]
run_dir = "run"
steps = 4
ema_decay = "none"
sample_every = 4

[model]
init = "{folder}"

[lora]
rank = 2

[optimizer]
kind = "adamw"
lr = 0.05

[objective]
caption_dropout = 0.0

[data]
shards = "data"
batch_size = 4

[captions]
checkpoint = "{folder}"

[autoencoder]
checkpoint = "{folder}"

[samples]
prompts = ["a dog"]
steps = 3
seed = 1
"""


def levels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("processes", [1, 2])
def test_samples_and_the_pipelines_of_both_draw_the_same(small_folder, tmp_path, monkeypatch, processes):
    monkeypatch.chdir(tmp_path)
    latents, caption = torch.randn(8, 8, 2, 2), torch.randn(8, 5, 16)
    keys = [str(key) for key in range(8)]
    write_shard("data/0.safetensors", latents, caption, torch.ones(8, 5), keys=keys, scaling_factor=1.0)
    path = tmp_path / "run.toml"
    path.write_text(PICTURES.format(folder=small_folder))
    if processes == 1:
        make_trainer(read_settings(path), device=CPU).fit()
    else:
        train_in_two_processes(path)
    sample = levels(Image.open("run/samples/step-00000004/1.png"))

    ours = SanaPipeline.from_pretrained(small_folder, device="cpu")
    plain = levels(ours("a dog", [1], steps=3, progress=False)[0])
    ours.load_lora("run/model")
    mine = levels(ours("a dog", [1], steps=3, progress=False)[0])
    theirs = diffusers.SanaPipeline.from_pretrained(small_folder)
    theirs.set_progress_bar_config(disable=True)
    theirs.load_lora_weights("run/model")
    noise, size = torch.Generator("cpu").manual_seed(1), {"height": 64, "width": 64, "use_resolution_binning": False}
    drawn = levels(theirs("a dog", generator=noise, num_inference_steps=3, **size).images[0])

    # Float32 rounds differently in the three; one level of 255 is where a value lies on the edge between two.
    assert np.abs(mine - drawn).max() <= 1
    assert np.abs(mine - sample).max() <= 1
    assert np.abs(mine - plain).max() > 10

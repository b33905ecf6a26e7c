import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sana.commands import app
from sana.training.cascade import is_cascade, planned, read_cascade
from sana_dit import SANA_1_5_1_6B, SanaTransformer
from sana_train import write_shard

RECIPE = Path(__file__).parents[1] / "recipes" / "sana_1_5_cascade.toml"
CASCADE = """
[cascade]
run_dir = "run"

[train]
steps = 4
warmup_steps = 2
log_every = 1
checkpoint_every = 10
plots = false

[model]
in_channels = 4
out_channels = 4
caption_channels = 8
num_layers = 2
num_attention_heads = 2
attention_head_dim = 8
num_cross_attention_heads = 2
cross_attention_head_dim = 8

[optimizer]
kind = "came"
lr = 1e-3

[objective]
caption_dropout = 0.0

[data]
batch_size = 4

[[stage]]
name = "small"
model.sample_size = 2
data.shards = "small"

[[stage]]
name = "large"
train.steps = 60
model.sample_size = 4
model.interpolation_scale = 2.0
objective.shift = 6.0
data.shards = "large"
data.batch_size = 2
"""


@pytest.fixture
def cascade(tmp_path, monkeypatch):
    """A cascade of two stages on latents of 2x2 and 4x4 cells, in the current folder."""
    monkeypatch.chdir(tmp_path)
    draw = torch.Generator().manual_seed(0)
    for name, side in (("small", 2), ("large", 4)):
        write_shard(
            f"{name}/0.safetensors",
            torch.randn(8, 4, side, side, generator=draw),
            torch.randn(8, 5, 8, generator=draw),
            torch.ones(8, 5),
            keys=[f"{name} {number}" for number in range(8)],
            scaling_factor=0.5,
        )
    (tmp_path / "cascade.toml").write_text(CASCADE)
    return tmp_path / "cascade.toml"


def train(*arguments):
    return CliRunner().invoke(app, ["train", "cascade.toml", "--device", "cpu", "--no-progress", *arguments])


def weights(folder):
    return SanaTransformer.from_pretrained(Path(folder) / "model").state_dict()


def test_stages_follow_one_another_at_rising_resolution(cascade):
    result = train("--set", "large.train.steps=5")
    assert result.exit_code == 0, result.output
    assert result.stdout == "run/2-large/model\n"
    small, large = (SanaTransformer.from_pretrained(f"run/{name}/model").config for name in ("1-small", "2-large"))
    assert (small.sample_size, small.interpolation_scale) == (2, None)
    assert (large.sample_size, large.interpolation_scale) == (4, 2.0)
    logged = [json.loads(line) for line in Path("run/2-large/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5]


def test_a_stage_goes_on_from_the_weights_of_the_one_before(cascade):
    result = train("--set", "large.train.steps=2", "--set", "large.optimizer.lr=1e-12", "--set", "train.ema_decay=none")
    assert result.exit_code == 0, result.output
    small, large = weights("run/1-small"), weights("run/2-large")
    # CAME moves weights by some 50 learning rates a step at most, and these round to nothing.
    assert all(torch.allclose(weight, large[name], rtol=0, atol=1e-9) for name, weight in small.items())


def test_killed_in_the_second_stage_a_cascade_goes_on_there_to_the_same_bits(cascade):
    assert train("--set", "cascade.run_dir=straight").exit_code == 0
    doomed = multiprocessing.get_context("fork").Process(target=_train_in_a_fork)
    doomed.start()
    while not list(Path("run/2-large/checkpoints").glob("step-*/COMMIT")) and doomed.is_alive():
        time.sleep(0.005)
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.join()
    assert not Path("run/2-large/finished.json").exists()
    Path("small/0.safetensors").unlink()  # the first stage is over, and is not looked at again
    first = Path("run/1-small/metrics.jsonl").stat().st_mtime_ns
    resumed = train("--resume")
    assert resumed.exit_code == 0, resumed.output
    assert Path("run/1-small/metrics.jsonl").stat().st_mtime_ns == first
    expected = weights("straight/2-large")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights("run/2-large").items())
    assert train("--resume").stdout == "run/2-large/model\n"  # nothing is left to do


def _train_in_a_fork():
    torch.set_num_threads(1)  # threads do not survive a fork
    train()


def test_a_sigterm_says_in_which_stage_it_stopped(cascade):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        stopped = pool.apply_async(_exit_of_train)
        while not list(Path("run/2-large/checkpoints").glob("step-*/COMMIT")) and not stopped.ready():
            time.sleep(0.005)
        os.kill(pool._pool[0].pid, signal.SIGTERM)
        assert stopped.get(60) == (143, "stopped in stage large: resume with --resume\n")


def _exit_of_train():
    torch.set_num_threads(1)
    result = train("--set", "large.train.steps=100000")
    return result.exit_code, result.stdout


def test_a_cascade_is_not_started_over_or_resumed_otherwise(cascade):
    few = ("--set", "large.train.steps=3")
    assert train(*few).exit_code == 0
    again = train(*few)
    assert again.exit_code == 2
    assert "run holds a cascade: resume it with --resume, or give another cascade.run_dir" in again.stderr
    other = train(*few, "--resume", "--set", "small.objective.shift=2.0")
    assert other.exit_code == 2
    assert "stage small is finished and was trained with other settings ([objective] {'shift': 3.0" in other.stderr
    deeper = train(*few, "--resume", "--set", "model.num_layers=5")
    assert deeper.exit_code == 2
    assert "stage small is finished and was trained with other settings ([model] {" in deeper.stderr
    assert train(*few, "--resume", "--allow-changes", "--set", "small.objective.shift=2.0").exit_code == 0


def test_a_change_is_for_all_stages_or_for_one(cascade):
    read = read_cascade(cascade, ["train.seed=7", "large.train.seed=8", "optimizer.lr=1e-4", "cascade.run_dir=x"])
    assert [stage.settings.train.seed for stage in read.stages] == [7, 8]
    assert [stage.settings.optimizer.lr for stage in read.stages] == [1e-4, 1e-4]
    assert [stage.settings.train.run_dir for stage in read.stages] == ["x/1-small", "x/2-large"]
    assert [stage.settings.objective.shift for stage in read.stages] == [3.0, 6.0]
    everywhere = read_cascade(cascade, ["objective.shift=2.0"])
    assert [stage.settings.objective.shift for stage in everywhere.stages] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("change", "sizes"),
    [("large.model.sample_size=8", [2, 8]), ("small.model.sample_size=1", [1, 4]), ("model.sample_size=8", [8, 8])],
)
def test_a_change_of_the_resolution_reaches_its_stages(cascade, change, sizes):
    stages = planned(read_cascade(cascade, [change]))
    assert [stage.settings.model.config.sample_size for stage in stages] == sizes


def test_a_change_may_not_give_a_later_stage_another_shape(cascade):
    with pytest.raises(ValueError, match=r"stage large: \[model\] has num_layers; it continues the stage before"):
        read_cascade(cascade, ["large.model.num_layers=3"])


def test_a_model_may_be_the_first_stages_own(cascade):
    text = CASCADE.replace("[model]", "[unused]").replace("model.sample_size = 2", 'model.init = "embedded"')
    text = re.sub(r"\[unused\].*?\n\n", "", text, flags=re.DOTALL)
    cascade.write_text(re.sub(r"model\.(sample_size = 4|interpolation_scale = 2.0)\n", "", text))
    assert [stage.settings.model.init for stage in read_cascade(cascade).stages] == ["embedded", "run/1-small/model"]


def test_the_published_cascade_is_planned_without_data_or_weights(cascade):
    assert is_cascade(RECIPE)
    assert not is_cascade(RECIPE.with_name("sana_1_5_1_6b.toml"))
    stages = planned(read_cascade(RECIPE))
    configs = [stage.settings.model.config for stage in stages]
    assert [config.sample_size for config in configs] == [16, 32, 64, 128, 128]
    assert [config.interpolation_scale for config in configs] == [None, None, 1.0, 2.0, 2.0]
    assert [stage.settings.objective.shift for stage in stages] == [3.0, 3.0, 3.0, 6.0, 6.0]
    assert configs[1] == SANA_1_5_1_6B
    result = CliRunner().invoke(app, ["train", str(RECIPE), "--plan", "--processes", "8", "--json"])
    plans = json.loads(result.stdout)["stages"]
    assert [plan["name"] for plan in plans] == ["512px", "1024px", "2k", "4k", "quality"]
    assert all(plan["memory_per_gpu"] < 80e9 for plan in plans)
    text = CliRunner().invoke(app, ["train", "cascade.toml", "--plan"])
    assert "stage large" in text.stdout
    assert "all stages: 136 images" in text.stdout


def test_new_blocks_are_warmed_up_in_the_first_stage_alone(cascade):
    cascade.write_text(CASCADE.replace("[data]", '[growth]\nplan = "growth.json"\nwarmup_steps = 2\n\n[data]'))
    grown = [stage.settings.growth is not None for stage in read_cascade(cascade).stages]
    assert grown == [True, False]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[stage]]", "[[stages]]", r"cascade.toml has no \[\[stage\]\]: a cascade has one for each resolution"),
        ('name = "large"', 'name = "small"', "has stages small, small; no two may have one name"),
        ('name = "large"', 'name = "../large"', r"has '\.\./large' as the name of stage 2; give letters, digits"),
        ('name = "large"', 'name = "train"', "has 'train' as the name of stage 2, which is a section: give another"),
        ('name = "large"', "", "has None as the name of stage 2"),
        ('run_dir = "run"', "", r"\[cascade\] lacks run_dir: add it"),
        (
            "[train]\n",
            '[train]\nrun_dir = "x"\n',
            r"stage small: \[train\] has run_dir 'x'; the folder of a cascade is",
        ),
        (
            "model.sample_size = 4",
            "model.num_layers = 3",
            r"stage large: \[model\] has num_layers; it continues the stage before, so only weights, kernels, ",
        ),
        (
            "objective.shift = 6.0",
            'growth.plan = "growth.json"',
            r"stage large: has \[growth\], which warms up what the first stage begins with: put it there",
        ),
        ("data.batch_size = 2", "data.batch_size = 0", r"stage large: \[data\] batch_size is 0"),
        (
            "objective.shift = 6.0",
            "objectives.shift = 6.0",
            r"stage large: has a section \[objectives\]; it must be one of",
        ),
        ("objective.shift = 6.0", "shift = 6.0", r"has shift in stage large; put it where it belongs"),
        ("[cascade]", "steps = 3\n[cascade]", r"has steps 3; it must be a section"),
    ],
)
def test_what_makes_no_cascade_is_said(cascade, old, new, message):
    cascade.write_text(CASCADE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_cascade(cascade)


def test_a_change_of_a_stage_needs_a_section(cascade):
    with pytest.raises(ValueError, match=r"--set is 'small\.seed=1'; of one stage give stage\.section\.key=value"):
        read_cascade(cascade, ["small.seed=1"])

import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sana.commands import app
from sana.training.run import make_trainer
from sana.training.settings_reading import read_settings
from sana_dit import SanaTransformer
from sana_train import GrowthPlan

RECIPE = Path(__file__).parents[1] / "recipes" / "sana_1_5_grow_4_8b.toml"
GROWN = """
[growth]
plan = "grown/growth.json"
warmup_steps = 3
frozen_steps = 2
"""


@pytest.fixture
def sana():
    def invoke(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments), "--no-progress"])
        assert result.exit_code == 0, result.output
        return result

    return invoke


@pytest.fixture
def grown(tiny_run, sana):
    """The run file of a tiny run that was trained for four steps and grown from two blocks to five, on to step ten."""
    sana("train", tiny_run, "--device", "cpu")
    sana("grow", "run", "grown", "--depth", 5, "--drop-last", 0)
    text = tiny_run.read_text()
    shape = text[text.index("[model]") : text.index("[optimizer]")]
    text = text.replace(shape, '[model]\ninit = "grown/model"\n').replace('run_dir = "run"', 'run_dir = "grown"')
    changed = text.replace("steps = 4", "steps = 10", 1).replace("checkpoint_every = 4", "checkpoint_every = 2")
    Path("grown.toml").write_text(changed + GROWN)
    return Path("grown.toml")


def go_on(sana, file, *options):
    return sana("train", file, "--device", "cpu", "--resume", *options)


def trainer_of(file):
    return make_trainer(read_settings(file), device=torch.device("cpu"), resume=True, allow_changes=True)


def test_a_run_is_grown_with_its_weights_averages_and_optimizer_state(tiny_run, grown):
    parent, trainer = (trainer_of(file) for file in (tiny_run, grown))
    assert trainer.step == 4
    assert trainer.model.config.num_layers == 5
    new = dict(trainer.model.named_parameters())
    for name, parameter in parent.model.named_parameters():
        assert torch.equal(new[name], parameter)
        assert torch.equal(trainer.ema.averages[name], parent.ema.averages[name])
        then, now = parent.optimizer.state[parameter], trainer.optimizer.state[new[name]]
        assert then.keys() == now.keys()
        assert all(torch.equal(now[key], value) for key, value in then.items())


def test_new_blocks_are_trained_alone_at_first(grown):
    before = {name: weight.clone() for name, weight in trainer_of(grown).model.state_dict().items()}
    trainer = trainer_of(grown)
    trainer.train_step(), trainer.train_step()
    weights = trainer.model.state_dict()
    moved = {name for name in weights if not torch.equal(weights[name], before[name])}
    new = tuple(f"blocks.{place}." for place in GrowthPlan.load("grown/growth.json").new)
    assert moved
    assert all(name.startswith(new) for name in moved)
    trainer.train_step()
    assert not torch.equal(
        trainer.model.state_dict()["blocks.0.mix_ffn.point.weight"], before["blocks.0.mix_ffn.point.weight"]
    )


@pytest.mark.parametrize("lost", [6, 10])
def test_a_grown_run_that_is_killed_ends_in_the_same_bits(sana, grown, lost):
    shutil.copytree("grown", "start")
    go_on(sana, grown, "--allow-changes", "--set", "train.keep_checkpoints=9")
    straight = SanaTransformer.from_pretrained("grown/model").state_dict()
    for step in range(lost, 11, 2):
        shutil.rmtree(f"grown/checkpoints/step-{step:08d}")
    assert Path(f"grown/checkpoints/step-{lost - 2:08d}").is_dir()
    go_on(sana, grown, *(["--allow-changes"] if lost == 6 else []))  # the first checkpoint has the parent's settings
    again = SanaTransformer.from_pretrained("grown/model").state_dict()
    assert all(torch.equal(weight, straight[name]) for name, weight in again.items())


def test_a_grown_model_without_a_run_begins_with_warmed_up_blocks(sana, grown):
    sana("grow", "run/model", "model", "--depth", 5, "--drop-last", 0)
    changes = ("model.init=model", "growth.plan=model/growth.json", "train.run_dir=other", "train.steps=4")
    sana("train", grown, "--device", "cpu", *(option for change in changes for option in ("--set", change)))
    assert SanaTransformer.from_pretrained("other/model").config.num_layers == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grow", "run", "new", "--plan", "grown/growth.json"], "run is a training run, which makes a plan of its own"),
        (["grow", "run", "grown", "--depth", "5"], "grown is not empty"),
        (["grow", "run", "new", "--depth", "2"], "depth is 2 and the model has 2 blocks"),
        (["train", "grown.toml", "--set", "growth.plan=none.json", "--resume"], "none.json"),
        (["train", "grown.toml", "--set", "model.init=run/model", "--resume"], "give the model that was grown"),
        (["train", "grown.toml", "--set", "growth.warmup_steps=-1", "--resume"], "[growth] warmup_steps is -1"),
        (["train", "grown.toml", "--resume"], "steps 4 -> 10"),
    ],
)
def test_bad_input_is_one_line(grown, arguments, message):
    options = ["--no-progress", *(["--device", "cpu"] if arguments[0] == "train" else [])]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("new").exists()


def test_the_recipe_is_a_run_file_of_what_its_commands_make():
    settings = read_settings(RECIPE)
    assert settings.model.init == f"{settings.train.run_dir}/model"
    assert settings.growth.plan == f"{settings.train.run_dir}/growth.json"
    parent = tomllib.loads((RECIPE.parent / "sana_1_5_1_6b.toml").read_text(encoding="utf-8"))
    assert f"sana grow {parent['train']['run_dir']} {settings.train.run_dir} --depth 60" in RECIPE.read_text()
    assert settings.train.steps > parent["train"]["steps"]

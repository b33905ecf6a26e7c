import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sana_train.draws import Draws
from sana_train.flow_matching import FlowMatching
from sana_train.validation import FlowValidation


class Velocity(nn.Module):
    """Guesses `guess` everywhere, through a dropout that evaluation must switch off."""

    def __init__(self, guess=0.0):
        super().__init__()
        self.guess = nn.Parameter(torch.tensor(guess))
        self.drop = nn.Dropout(0.5)
        self.timesteps = []

    def forward(self, latents, timestep, caption, caption_mask):
        assert not torch.is_grad_enabled()
        self.timesteps += timestep.tolist()
        return self.drop(self.guess.expand(latents.shape)) + caption.mean()


def batch(size):
    latents = torch.randn(size, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    return {
        "latents": latents,
        "caption": torch.zeros(size, 4, 5),
        "caption_mask": torch.ones(size, 4),
        "key": [str(slot) for slot in range(size)],
    }


def test_the_loss_is_the_mean_velocity_error_of_each_bin():
    held_out = batch(7)
    result = FlowValidation(held_out, objective=FlowMatching(), bins=2, batch_size=3)(Velocity(guess=0.25))
    assert list(result) == ["val/loss", "val/loss_t0.0-0.5", "val/loss_t0.5-1.0"]
    for bin, name in enumerate(("val/loss_t0.0-0.5", "val/loss_t0.5-1.0")):
        noise = Draws(0, bin, range(7)).normal((7, 2, 3, 3), "validation/noise")
        expected = (0.25 - (noise - held_out["latents"])).square().mean()
        assert result[name] == pytest.approx(expected.item(), rel=1e-6)
    assert result["val/loss"] == pytest.approx(sum(list(result.values())[1:]) / 2, rel=1e-12)


def test_every_sample_is_seen_once_in_every_bin_of_noise():
    model = Velocity()
    FlowValidation(batch(6), objective=FlowMatching(), bins=5)(model)
    counts = torch.histc(torch.tensor(model.timesteps), bins=5, min=0, max=1000)
    assert counts.tolist() == [6] * 5


def test_the_same_model_has_the_same_loss_again():
    validation, model = FlowValidation(batch(4), objective=FlowMatching()), Velocity(guess=1.0)
    assert validation(model) == validation(model)
    assert validation(model) != FlowValidation(batch(4), objective=FlowMatching(), seed=1)(model)


def test_modes_are_as_they_were_afterwards():
    model = nn.Sequential(Velocity(), nn.Dropout())
    model[1].eval()
    validation = FlowValidation(batch(1), objective=FlowMatching())
    with pytest.raises(TypeError):
        validation(model)  # a Sequential takes one argument
    assert model.training
    assert model[0].drop.training
    assert not model[1].training


def test_captions_are_never_dropped():
    objective = FlowMatching(caption_dropout=1.0, null_caption=torch.full((4, 5), 100.0))
    result = FlowValidation(batch(8), objective=objective)(Velocity())
    assert result["val/loss"] < 10


@pytest.mark.parametrize("settings", [{"bins": 0}, {"batch_size": 0}])
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is 0"):
        FlowValidation(batch(1), objective=FlowMatching(), **settings)
    with pytest.raises(ValueError, match="samples is 0"):
        FlowValidation(batch(0), objective=FlowMatching())


def test_processes_share_the_samples_and_all_get_the_result(tmp_path):
    script = Path(__file__).parent / "processes" / "validation_run.py"
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    ended = subprocess.run([*launch, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["together"] == second["together"] == first["alone"]
    # Three of the five samples each, one of them twice, in two chunks of five bins: sharded models need equal passes.
    assert first["passes"] == second["passes"] == 10

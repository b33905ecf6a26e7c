import pytest
import torch

from sana_train import Draws, FlowMatching


class Recorder(torch.nn.Module):
    """Answers with zeros and remembers what it was asked."""

    def forward(self, latents, timestep, caption, caption_mask):
        self.latents, self.timestep, self.caption = latents, timestep, caption
        return torch.zeros_like(latents)


def batch(size):
    return {
        "latents": torch.full((size, 2, 1, 1), 3.0),
        "caption": torch.ones(size, 4, 5),
        "caption_mask": torch.ones(size, 4),
    }


def test_model_sees_the_straight_path_and_the_floored_timestep():
    model, draws, objective = Recorder(), Draws(0, 0, range(64)), FlowMatching(shift=3.0)
    loss = objective(model, batch(64), draws)
    sigma, noise = objective.sigmas(draws), draws.normal((64, 2, 1, 1), "noise")
    expected = (1 - sigma.view(-1, 1, 1, 1)) * 3.0 + sigma.view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(model.latents, expected.float())
    assert torch.equal(model.timestep, (1000 * sigma).floor().float())
    torch.testing.assert_close(loss, (noise - 3.0).square().mean())


def test_times_are_the_shifted_logit_normal_grid():
    sigma = FlowMatching(shift=3.0).sigmas(Draws(0, 0, range(4000)))
    unshifted = sigma / (3 - 2 * sigma) * 1000
    assert (unshifted - unshifted.round()).abs().max() < 2e-3  # fp32 at 1000 has steps of 6e-5; the map stretches by 9
    assert sigma.min() >= 0
    assert sigma.max() <= 0.99967
    # The median of sigmoid(N(0, 1)) is 0.5, which the shift moves to 0.75; 5 standard errors of a median of 4000.
    assert abs(sigma.median().item() - 0.75) < 0.02


class EveryTime(Draws):
    """The middle of each cell of the grid, one to a slot."""

    def uniform(self, shape, purpose):
        return (torch.arange(shape[0]) + 0.5) / 1000


@pytest.mark.parametrize("shift", [1, 3, 6])
def test_no_timestep_of_the_grid_is_rounded_below_itself(shift):
    model = Recorder()
    FlowMatching(shift=float(shift), weighting="uniform")(model, batch(1000), EveryTime(0, 0, range(1000)))
    expected = [1000 * shift * i // (1000 + (shift - 1) * i) for i in range(1000)]  # in whole numbers
    assert model.timestep.tolist() == expected
    assert model.timestep.dtype == torch.float32


def test_uniform_times_cover_the_grid_evenly():
    sigma = FlowMatching(shift=1.0, weighting="uniform").sigmas(Draws(0, 0, range(4000)))
    counts = torch.histc(sigma, bins=4, min=0, max=1)
    assert (counts - 1000).abs().max() < 5 * 27.4  # binomial(4000, 1/4) has a standard deviation of 27.4


def test_dropped_captions_become_the_null_caption():
    model = Recorder()
    objective = FlowMatching(caption_dropout=0.3, null_caption=torch.full((4, 5), -1.0))
    objective(model, batch(1000), Draws(0, 0, range(1000)))
    dropped = (model.caption == -1).flatten(1).all(1)
    assert ((model.caption == 1).flatten(1).all(1) ^ dropped).all()
    assert abs(dropped.float().mean().item() - 0.3) < 5 * 0.0145  # sqrt(0.3 * 0.7 / 1000)


def test_shorter_captions_take_the_beginning_of_the_null_caption():
    model, null = Recorder(), torch.arange(35.0).reshape(7, 5)
    FlowMatching(caption_dropout=1.0, null_caption=null)(model, batch(2), Draws(0, 0, range(2)))
    assert torch.equal(model.caption, null[:4].expand(2, -1, -1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": 0.0}, "shift is 0.0"),
        ({"weighting": "cosine"}, "weighting is 'cosine'"),
        ({"caption_dropout": 1.5}, "caption_dropout is 1.5"),
        ({"caption_dropout": 0.1}, "there is no null_caption"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        FlowMatching(**settings)

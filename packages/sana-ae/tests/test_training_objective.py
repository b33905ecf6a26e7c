from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from sana_ae import DCAE
from sana_ae.training import (
    LOW_RESOLUTION_FULL,
    LOW_RESOLUTION_REFINEMENT,
    AdversarialAutoencoder,
    AutoencoderObjective,
    PatchDiscriminator,
    as_images,
)
from sana_ae.training.discriminator import discriminator_loss, generator_loss

FULL = replace(LOW_RESOLUTION_FULL, resolution=64, lr=1e-3)
ADVERSARIAL = replace(FULL, adversarial_weight=0.5)


@dataclass
class Draws:
    step: int = 0

    def normal(self, shape: Sequence[int], purpose: str) -> Tensor:
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(self.step))


@pytest.fixture
def batch():
    images = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8) * 2 - 1, size=64, mode="bilinear")
    return {"images": images, "key": ["a", "b"]}


@pytest.fixture
def make(make_model):
    """Builds a tiny autoencoder in a phase."""

    def make(phase):
        torch.manual_seed(0)
        return AdversarialAutoencoder(make_model(), phase, discriminator=PatchDiscriminator(width=8)).train()

    return make


def gradients(loss, parameters):
    return torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)


def test_one_backward_gives_each_side_the_gradient_of_its_own_loss(make, batch):
    model = make(ADVERSARIAL)
    objective = AutoencoderObjective(ADVERSARIAL)
    objective(model, batch, Draws()).backward()

    autoencoder, discriminator = model["autoencoder"], model["discriminator"]
    decoded = autoencoder(batch["images"])
    own = objective.reconstruction(decoded, batch["images"]) + 0.5 * generator_loss(discriminator(decoded))
    learnt = discriminator_loss(discriminator(batch["images"]), discriminator(decoded))
    for module, loss in ((autoencoder, own), (discriminator, learnt)):
        for parameter, wanted in zip(module.parameters(), gradients(loss, module.parameters()), strict=True):
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-3, atol=1e-6)  # sums in another order


def test_the_value_of_the_loss_does_not_follow_the_scale_of_the_logits(make, batch):
    model, objective = make(ADVERSARIAL), AutoencoderObjective(ADVERSARIAL)
    decoded = model["autoencoder"](batch["images"])
    discriminator = model["discriminator"]
    learnt = discriminator_loss(discriminator(batch["images"]), discriminator(decoded))
    wanted = objective.reconstruction(decoded, batch["images"]) + learnt
    torch.testing.assert_close(objective(model, batch, Draws()), wanted)


def test_the_loss_without_a_discriminator_is_of_the_reconstruction(make, batch):
    model, objective = make(FULL), AutoencoderObjective(FULL)
    assert "discriminator" not in model
    decoded = model["autoencoder"](batch["images"])
    wanted = (decoded - batch["images"]).abs().mean() + objective.perceptual(decoded, batch["images"]).mean()
    torch.testing.assert_close(objective(model, batch, Draws()), wanted)


def test_the_loss_of_a_batch_is_the_mean_over_its_images(make, batch):
    model, objective = make(ADVERSARIAL), AutoencoderObjective(ADVERSARIAL)
    halves = [objective(model, {"images": image.unsqueeze(0)}, Draws()) for image in batch["images"]]
    torch.testing.assert_close(objective(model, batch, Draws()), sum(halves) / 2)


def test_bytes_are_taken_as_images(make, batch):
    model, objective = make(FULL), AutoencoderObjective(FULL)
    pixels = ((batch["images"] + 1) * 127.5).round().byte()
    assert torch.equal(
        objective(model, {"images": pixels}, Draws()), objective(model, {"images": as_images(pixels)}, Draws())
    )
    assert as_images(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_the_discriminators_weight_rises_over_its_warmup():
    objective = AutoencoderObjective(replace(ADVERSARIAL, adversarial_warmup=10))
    assert [objective.adversarial_factor(step) for step in (0, 4, 9, 100)] == pytest.approx([0.05, 0.25, 0.5, 0.5])


def test_noise_on_the_latents_is_in_the_scale_of_a_diffusion_model(make, batch):
    phase = replace(FULL, trains="decoder", latent_noise=0.1, perceptual_weight=0.0)
    model = make(phase)
    autoencoder = model["autoencoder"]
    noise = Draws().normal((2, autoencoder.config.latent_channels, 2, 2), "latent noise")
    latents = autoencoder.encode(batch["images"]) + 0.1 * noise / autoencoder.config.scaling_factor
    wanted = (autoencoder.decode(latents) - batch["images"]).abs().mean()
    torch.testing.assert_close(AutoencoderObjective(phase)(model, batch, Draws()), wanted)


def test_a_step_of_the_refinement_moves_the_head_and_the_discriminator_alone(make, batch):
    phase = replace(LOW_RESOLUTION_REFINEMENT, resolution=64, lr=1e-2)
    model = make(phase)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    AutoencoderObjective(phase)(model, batch, Draws()).backward()
    AdamW(model.parameter_groups(phase)).step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    heads = ("autoencoder.decoder.up_blocks.0.", "autoencoder.decoder.norm_out.", "autoencoder.decoder.conv_out.")
    wanted = {name for name in before if name.startswith((*heads, "discriminator."))}
    assert moved == wanted - {"discriminator.layers.11.bias"}  # at first real and decoded images pull it both ways


def test_both_sides_get_their_own_group(make):
    first, second = make(ADVERSARIAL).parameter_groups(replace(ADVERSARIAL, weight_decay=0.1))
    assert (first["weight_decay"], second["weight_decay"]) == (0.1, 0.0)
    assert not set(first["params"]) & set(second["params"])


def test_what_is_saved_is_the_autoencoder_alone(make, batch, tmp_path):
    model = make(ADVERSARIAL)
    model.save_pretrained(tmp_path / "model")
    loaded = DCAE.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(loaded(batch["images"]), model.eval()(batch["images"]).decoded)

import pytest
import torch
from torch import nn

from sana_ae.training.discriminator import PatchDiscriminator, adaptive_weight, discriminator_loss, generator_loss


def test_a_logit_sees_a_patch_of_70_pixels():
    images = torch.randn(1, 3, 256, 256, requires_grad=True)
    discriminator = PatchDiscriminator(width=4)
    for module in discriminator.modules():
        if isinstance(module, nn.GroupNorm):  # its statistics are of the whole image
            module.forward = lambda x: x
    logits = discriminator(images)
    logits[0, 0, 15, 15].backward()
    seen = images.grad[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def test_logits_do_not_depend_on_the_rest_of_the_batch():
    images = torch.randn(3, 3, 64, 64)
    discriminator = PatchDiscriminator(width=8)
    torch.testing.assert_close(discriminator(images)[:1], discriminator(images[:1]))


def test_a_fixed_discriminator_judges_alike_and_learns_nothing():
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    discriminator = PatchDiscriminator(width=8)
    opinion = discriminator(images, fixed=True)
    assert torch.equal(opinion, discriminator(images))
    opinion.sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in discriminator.parameters())


def test_the_hinge_losses():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert discriminator_loss(real, fake).item() == pytest.approx(((0 + 0.5) / 2 + (0 + 1) / 2) / 2)
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == 1.0
    assert generator_loss(fake).item() == 1.5


def test_the_adaptive_weight_makes_both_gradients_equal():
    decoded = torch.randn(2, 3, 8, 8, requires_grad=True)
    wanted, opinion = decoded.square().mean(), 100 * decoded.sin().sum()
    weight = adaptive_weight(wanted, opinion, decoded)
    (a,), (b,) = (torch.autograd.grad(loss, decoded) for loss in (wanted, weight * opinion))
    assert a.norm().item() == pytest.approx(b.norm().item(), rel=1e-4)
    assert not weight.requires_grad

"""A transformer whose layers have adapters, on the kernels."""

from importlib import import_module

import pytest
import torch
from torch import nn

from sana_dit import SanaConfig, SanaTransformer, add_lora, ops
from sana_dit.low_rank import LowRank, fuse, set_additions
from sana_dit.ops.implementation import selected
from sana_dit.ops.launch import Launch

OPERATIONS = ("gated_depthwise", "gated_residual", "linear_attention", "modulated_norm")


@pytest.fixture
def model(device, draw):
    """With an addition to every linear layer."""
    torch.manual_seed(0)
    config = SanaConfig(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=32, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=32, caption_channels=16, sample_size=4, qk_norm=True,
    )  # fmt: skip
    model = SanaTransformer(config).to(device).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * draw(*parameter.shape, dtype=torch.float32)
    for layer in [module for module in model.modules() if isinstance(module, nn.Linear)]:
        down, up = draw(2, layer.in_features, dtype=torch.float32), draw(layer.out_features, 2, dtype=torch.float32)
        set_additions(layer, {"style": LowRank(0.1 * down, 0.1 * up)})
    return model


@pytest.fixture
def launched(device, monkeypatch):
    """The kernels that have run; the interpreter's are taken for operands on the CPU."""
    if device == "cpu":
        for name in OPERATIONS:
            monkeypatch.setattr(
                import_module(f"sana_dit.ops.{name}"), "can_fuse", lambda *operands: selected() == "fused"
            )
    names, run = [], Launch.run
    monkeypatch.setattr(Launch, "run", lambda launch: names.append(launch.kernel.fn.__module__) or run(launch))
    return names


@pytest.mark.parametrize("into_weights", [False, True], ids=["beside", "fused"])
@torch.no_grad()
def test_kernels_take_what_adapted_layers_give(model, launched, draw, into_weights):
    for layer in [module for module in model.modules() if into_weights and isinstance(module, nn.Linear)]:
        fuse(layer)
    latents, caption = draw(2, 4, 4, 4, dtype=torch.float32), draw(2, 5, 16, dtype=torch.float32)
    inputs = latents, torch.full((2,), 500.0, device=latents.device), caption
    expected = model(*inputs)
    assert not launched
    with ops.use("fused"):
        velocity = model(*inputs)
    assert {name.split(".")[-2] for name in launched} == set(OPERATIONS)
    # float32 has 24 bits, and the numbers pass some 20 layers.
    assert (velocity - expected).norm() <= 1e-5 * expected.norm()


def test_factors_in_training_have_the_gradients_of_the_reference(model, launched, draw):
    lora = add_lora(model, rank=2, name="trained")
    for parameter in lora.parameters():
        parameter.data += 0.1 * draw(*parameter.shape, dtype=torch.float32)
    latents, caption = draw(2, 4, 4, 4, dtype=torch.float32), draw(2, 5, 16, dtype=torch.float32)
    inputs, weight = (latents, torch.full((2,), 500.0, device=latents.device), caption), torch.randn_like(latents)
    gradients = []
    for implementation in ("reference", "fused"):
        with ops.use(implementation):
            found = torch.autograd.grad((lora(*inputs) * weight).sum(), list(lora.parameters()))
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    expected, found = gradients
    assert {name.split(".")[-2] for name in launched} >= set(OPERATIONS)
    # float32 has 24 bits, and the numbers pass some 20 layers forward and as many back.
    assert (found - expected).norm() <= 2e-5 * expected.norm()

"""torch.compile takes the model whole: no graph breaks, in the plain forward and in a prepared step."""

from dataclasses import replace

import pytest
import torch

from sana_dit import SanaTransformer, guided_velocity
from sana_dit.captions import Captions


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    torch.compiler.reset()
    return SanaTransformer(replace(tiny_config, num_layers=1, qk_norm=True)).eval().requires_grad_(False)


def inputs():
    generator = torch.Generator().manual_seed(1)
    latents, caption = torch.randn(2, 4, 6, 8, generator=generator), torch.randn(2, 20, 16, generator=generator)
    return latents, torch.tensor([3.0, 731.0]), caption, (torch.arange(20) < torch.tensor([[1], [9]])).long()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_forward_compiles_without_graph_breaks(model, backend):
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(*inputs()), model(*inputs()))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_prepared_step_compiles_without_graph_breaks(model, backend):
    latents, t, *captions = inputs()
    arguments = latents, model.time(t, None), model.prepare(*captions)
    compiled = torch.compile(model.denoise, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), model.denoise(*arguments))


def test_blocks_compiled_in_place_serve_both(model):
    latents, t, *captions = inputs()
    plain = model(latents, t, *captions)
    model.blocks[0].compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(model(latents, t, *captions), plain)
    torch.testing.assert_close(model.denoise(latents, model.time(t, None), model.prepare(*captions)), plain)


def test_guidance_calls_a_model_that_was_compiled_as_a_whole(model):
    latents, t, *captions = inputs()
    expected = guided_velocity(model, Captions(*captions), guidance_scale=1.0)(latents, t)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(guided_velocity(compiled, Captions(*captions), guidance_scale=1.0)(latents, t), expected)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0

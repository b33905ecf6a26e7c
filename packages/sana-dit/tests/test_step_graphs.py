"""Recorded steps: what a graph is kept for, when it is thrown away, and on a GPU that it gives the same numbers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sana_dit import SanaTransformer, flow_dpm_solver, guided_velocity, seeded_noise
from sana_dit.captions import Captions
from sana_dit.ops import use
from sana_dit.step_graphs import StepGraphs

TOKENS = 40


def record_on_cpu(function):
    """A recording as on a GPU, which reads and writes the same memory at each replay, but without a graph."""
    output = function()
    return lambda: output.copy_(function())


class Recorder:
    """Counts the recordings."""

    def __init__(self):
        self.recordings = 0

    def __call__(self, function):
        self.recordings += 1
        return record_on_cpu(function)


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    model = SanaTransformer(replace(tiny_config, qk_norm=True)).eval()
    with torch.no_grad():
        model.caption.norm.fill_(1)
    return model


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("sana_dit.step_graphs.record_cuda_graph", recorder)
    return recorder


@pytest.fixture
def graphs(model, recorder):
    return StepGraphs(model)


def captions(tokens, seed=1, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(2, TOKENS, 16, generator=generator)
    return Captions(embeddings.to(device), (torch.arange(TOKENS) < tokens).long().expand(2, -1).to(device))


def draw(model, denoise, *, tokens=9, seed=1, side=6, steps=5):
    device = next(model.parameters()).device
    velocity = guided_velocity(
        model, captions(tokens, seed, device), captions(1, 2, device), guidance_scale=3.0, denoise=denoise
    )
    with torch.inference_mode():
        return flow_dpm_solver(velocity, seeded_noise([seed, 8], (4, side, 8)).to(device), steps=steps)


def test_a_replayed_step_gives_what_the_model_gives(model, graphs, recorder):
    for seed, tokens in ((1, 9), (2, 9), (3, 12)):
        assert torch.equal(draw(model, graphs, tokens=tokens, seed=seed), draw(model, None, tokens=tokens, seed=seed))
    assert recorder.recordings == len(graphs) == 1


def test_a_step_is_recorded_when_its_shape_comes_the_third_time(model, graphs, recorder):
    draw(model, graphs, steps=2)
    assert recorder.recordings == 0
    draw(model, graphs, steps=1)
    assert recorder.recordings == 1


def test_each_shape_has_its_own_graph(model, graphs, recorder):
    draw(model, graphs)
    draw(model, graphs, side=4)
    draw(model, graphs, tokens=30)  # another 16 tokens
    assert recorder.recordings == len(graphs) == 3
    draw(model, graphs)
    assert recorder.recordings == 3


def test_the_graph_that_was_not_used_for_longest_goes_first(model, recorder):
    graphs = StepGraphs(model, limit=2)
    for side in (4, 6, 4, 8):  # 8 drives out 6
        draw(model, graphs, side=side)
    assert (recorder.recordings, len(graphs)) == (3, 2)
    draw(model, graphs, side=4)
    assert recorder.recordings == 3
    draw(model, graphs, side=6)
    assert recorder.recordings == 4


def test_weights_changed_in_place_are_read_and_moved_ones_recorded_anew(model, graphs, recorder):
    draw(model, graphs)
    with torch.no_grad():
        model.blocks[0].self_attn.to_out.weight.mul_(2)
    assert torch.equal(draw(model, graphs), draw(model, None))
    assert recorder.recordings == 1
    model.blocks[0].self_attn.to_out.weight = nn.Parameter(3 * model.blocks[0].self_attn.to_out.weight)
    assert torch.equal(draw(model, graphs), draw(model, None))
    assert recorder.recordings == 2
    model.bfloat16()
    assert torch.equal(draw(model, graphs), draw(model, None))
    assert recorder.recordings == 3


def test_weights_that_move_between_two_uses_of_a_velocity_are_noticed(model, graphs, recorder):
    velocity, noise = guided_velocity(model, captions(9), captions(1), denoise=graphs), seeded_noise([1, 8], (4, 6, 8))
    with torch.inference_mode():
        flow_dpm_solver(velocity, noise, steps=5)
        model.double().float()
        flow_dpm_solver(velocity, noise, steps=5)
    assert recorder.recordings == 2


def test_each_implementation_of_the_operations_is_recorded(model, graphs, recorder):
    draw(model, graphs)
    with use("fused"):
        draw(model, graphs)
    assert recorder.recordings == 2


def test_gradients_and_autocast_run_the_model_itself(model, graphs, recorder):
    x, t = torch.randn(2, 4, 6, 8), torch.tensor([5.0])
    conditioning = model.prepare(*captions(9))
    for _ in range(4):
        graphs(x, model.time(t, None), conditioning)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            graphs(x, model.time(t, None), model.prepare(*captions(9)))
    assert recorder.recordings == 0


def test_a_large_batch_is_not_recorded(model, graphs, recorder, monkeypatch):
    monkeypatch.setattr("sana_dit.step_graphs._MAX_TOKENS", 4 * 6 * 8 - 1)
    draw(model, graphs)
    assert recorder.recordings == 0


def test_a_recording_that_fails_is_reported_once_and_the_model_runs_plainly(model, monkeypatch):
    def fail(function):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr("sana_dit.step_graphs.record_cuda_graph", fail)
    graphs = StepGraphs(model)
    with pytest.warns(UserWarning, match="could not be recorded: operation not permitted when stream is capturing$"):
        assert torch.equal(draw(model, graphs), draw(model, None))
    assert torch.equal(draw(model, graphs, side=4), draw(model, None, side=4))
    assert len(graphs) == 0


def test_hooks_see_every_forward(model, graphs, recorder):
    calls = []
    model.blocks[1].register_forward_hook(lambda block, args, output: calls.append(len(output)))
    draw(model, graphs, steps=5)
    assert calls == [4] * 5
    assert recorder.recordings == 0


def test_a_limit_below_one_is_refused(model):
    with pytest.raises(ValueError, match="limit is 0"):
        StepGraphs(model, limit=0)


gpu = pytest.mark.gpu


@pytest.fixture
def on_gpu(model):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return model.cuda()


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_a_cuda_graph_gives_what_the_model_gives(on_gpu, dtype, implementation):
    model, graphs = on_gpu.to(dtype), StepGraphs(on_gpu)
    with use(implementation):
        for seed, tokens, side in ((1, 9, 6), (2, 9, 6), (3, 12, 6), (3, 30, 4), (4, 9, 6)):
            setting = {"seed": seed, "tokens": tokens, "side": side, "steps": 6}
            graphed, plain = draw(model, graphs, **setting), draw(model, None, **setting)
            # The same kernels on the same numbers, but cuBLAS may choose others beside a capture's own workspace.
            torch.testing.assert_close(graphed, plain, rtol=1e-2 if dtype != torch.float32 else 1e-4, atol=1e-2)
    assert len(graphs) == 2


@gpu
def test_a_cuda_graph_follows_weights_that_moved(on_gpu):
    model, graphs = on_gpu, StepGraphs(on_gpu)
    draw(model, graphs)
    model.cpu()
    model.cuda()
    with torch.no_grad():
        model.final.proj.weight.mul_(2)
    torch.testing.assert_close(draw(model, graphs), draw(model, None), rtol=1e-4, atol=1e-4)
    model.blocks[0].mix_ffn.point.weight = nn.Parameter(3 * model.blocks[0].mix_ffn.point.weight)
    torch.testing.assert_close(draw(model, graphs), draw(model, None), rtol=1e-4, atol=1e-4)


@gpu
def test_a_step_that_waits_for_the_gpu_is_run_plainly_and_leaves_nothing_open(on_gpu):
    model, graphs = on_gpu, StepGraphs(on_gpu)
    patch = model.patch.forward
    model.patch.forward = lambda x: patch(x) + 0 * x.sum().item()
    plain = draw(model, None)
    with pytest.warns(UserWarning, match="runs without CUDA graphs"):
        torch.testing.assert_close(draw(model, graphs), plain)
    torch.testing.assert_close(draw(model, graphs, seed=2), draw(model, None, seed=2))
    torch.manual_seed(3)
    drawn = torch.rand(5, device="cuda")  # of a generator that a capture held would raise
    torch.manual_seed(3)
    assert torch.equal(torch.rand(5, device="cuda"), drawn)
    model.patch.forward = patch
    graphs = StepGraphs(model)
    draw(model, graphs)
    assert len(graphs) == 1


@gpu
def test_another_stream_runs_the_model_itself(on_gpu):
    graphs = StepGraphs(on_gpu)
    with torch.cuda.stream(torch.cuda.Stream()):
        draw(on_gpu, graphs)
    assert len(graphs) == 0

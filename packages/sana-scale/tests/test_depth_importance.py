import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sana_scale.depth import block_importance, prune_depth

CORNERS = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # (1, 2, 2): two tokens of two channels


class Function(nn.Module):
    """A block that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, hidden_states, *rest):
        return self.function(hidden_states)


class Residual(nn.Module):
    """A block with two branches, the second behind a gate."""

    def __init__(self, width=4):
        super().__init__()
        self.attn = nn.Linear(width, width)
        self.ff = nn.Linear(width, width)

    def forward(self, x):
        x = x + self.attn(x)
        return x + 0.5 * self.ff(x)


class Turning(nn.Module):
    """A model whose one block turns tokens by `timestep` / 1000 radians."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Function(self.turn)])

    def turn(self, x):
        return rotated(x, self.angle)

    def forward(self, x, timestep):
        self.angle = timestep.double() / 1000
        return self.blocks[0](x)


def rotated(x, angle):
    cos, sin = (f(torch.as_tensor(angle)).float().view(-1, 1) for f in (torch.cos, torch.sin))
    return torch.stack([x[..., 0] * cos - x[..., 1] * sin, x[..., 0] * sin + x[..., 1] * cos], -1)


def measure(*functions, tokens=CORNERS, **options):
    blocks = nn.ModuleList(Function(function) for function in functions)

    def run():
        x = tokens
        for block in blocks:
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x

    return block_importance(blocks, run, **options)


def test_importance_is_one_minus_the_mean_cosine_of_tokens():
    # The first token turns by 90 degrees (cosine 0), the second stays (cosine 1).
    turn_first = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    found = measure(lambda x: turn_first)
    assert found.values.tolist() == pytest.approx([0.5])
    assert found.norm_change.tolist() == pytest.approx([math.sqrt(2) / 2])


def test_the_cosine_is_that_of_torch_on_any_tokens():
    generator = torch.Generator().manual_seed(0)
    tokens, added = torch.randn(2, 3, 5, 8, generator=generator)
    found = measure(lambda x: x + added, tokens=tokens)
    expected = 1 - F.cosine_similarity(tokens, tokens + added, dim=-1).mean()
    assert found.values[0].item() == pytest.approx(expected.item(), rel=1e-5)  # fp32 sums of 8 products


def test_a_token_that_only_grows_has_not_turned():
    # Along the tokens instead of the channels the cosine would not be 1.
    found = measure(lambda x: x * torch.tensor([[2.0], [5.0]]))
    assert found.values.tolist() == [0]
    assert found.norm_change.tolist() == pytest.approx([2.5])


def test_a_small_turn_keeps_its_digits():
    # 1 - cos(1e-4) = 5e-9, below the distance of fp32 numbers near 1.
    found = measure(lambda x: rotated(x, 1e-4))
    assert found.values[0].item() == pytest.approx(5e-9, rel=1e-2)


def test_an_identity_has_importance_zero_and_goes_first():
    model = nn.Module()
    model.blocks = nn.ModuleList([Residual(), nn.Identity(), Residual()])
    tokens = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    importance = block_importance(model.blocks, lambda: [x := tokens, *(x := block(x) for block in model.blocks)])
    assert importance.values[1] == 0
    assert prune_depth(model, keep=2, importance=importance)[1].removed == (1,)


@pytest.mark.parametrize(
    "wrap", [lambda y: (y,), lambda y: (y, None), lambda y: (y[:, :1], y), lambda y: {"sample": y}]
)
def test_the_output_is_found_in_a_tuple_or_mapping(wrap):
    blocks = nn.ModuleList([Function(lambda x: wrap(rotated(x, math.pi / 3)))])
    found = block_importance(blocks, lambda: blocks[0](hidden_states=CORNERS))
    assert found.values.tolist() == pytest.approx([0.5])


def test_a_block_that_works_in_place_is_compared_with_what_it_was_given():
    found = measure(lambda x: x.copy_(rotated(x, math.pi / 3)), tokens=CORNERS.clone())
    assert found.values.tolist() == pytest.approx([0.5])


def test_bf16_tokens_are_compared_in_fp32():
    found = measure(lambda x: x, lambda x: rotated(x.float(), math.pi / 2).bfloat16(), tokens=CORNERS.bfloat16())
    assert found.values.tolist() == pytest.approx([0, 1])


def test_prompts_that_a_generator_tells_apart_are_the_units_of_the_error():
    angles = iter([0.0, 0.0, math.pi / 2, math.pi / 2])
    blocks = nn.ModuleList([Function(lambda x: rotated(x, next(angles)))])

    def run():
        for _ in range(2):
            blocks[0](CORNERS)
            blocks[0](CORNERS)
            yield

    found = block_importance(blocks, run, progress=False)
    assert found.units == 2
    assert found.samples == 4
    assert found.values.tolist() == pytest.approx([0.5])
    assert found.standard_errors.tolist() == pytest.approx([0.5])  # of two means 0 and 1: std / sqrt 2


def test_without_a_generator_each_sample_is_a_unit():
    tokens = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
    found = measure(lambda x: torch.tensor([0.0, 1.0]).expand_as(x), tokens=tokens)
    assert found.units == 3
    assert found.standard_errors.tolist() == pytest.approx([torch.tensor([1.0, 0, 0]).std().item() / math.sqrt(3)])


def test_time_bins_are_weighted_as_the_sampler_visits_them():
    model = Turning()
    times = torch.tensor([100.0, 900.0, 900.0])
    by_visits = block_importance(
        model.blocks, lambda: model(CORNERS.expand(3, 2, 2), times), model=model, bins=2,
        sampler_timesteps=[1000, 700, 600, 100],
    )  # fmt: skip
    low, high = 1 - math.cos(0.1), 1 - math.cos(0.9)
    assert by_visits.by_time.tolist() == [pytest.approx([low, high], rel=1e-5)]
    assert by_visits.time_weights.tolist() == [0.25, 0.75]
    assert by_visits.values.item() == pytest.approx(0.25 * low + 0.75 * high, rel=1e-5)
    assert by_visits.time_edges.tolist() == [0, 500, 1000]


def test_time_bins_are_weighted_by_what_was_measured_by_default():
    model = Turning()
    found = block_importance(
        model.blocks, lambda: [model(CORNERS, torch.tensor(t)) for t in (100, 900, 900)], model=model, bins=4
    )
    assert found.values.item() == pytest.approx(1 - (math.cos(0.1) + 2 * math.cos(0.9)) / 3, rel=1e-5)
    assert found.by_time[0].isnan().tolist() == [False, True, True, False]


def test_the_parts_of_a_guided_batch_are_told_apart():
    both = torch.cat([CORNERS, CORNERS])
    turned = torch.cat([CORNERS, rotated(CORNERS, math.pi / 2)])
    found = measure(lambda x: turned, tokens=both, batch_parts=("unconditional", "conditional"))
    assert {name: value.item() for name, value in found.parts.items()} == pytest.approx(
        {"unconditional": 0, "conditional": 1}
    )
    assert found.values.item() == pytest.approx(0.5)


def test_a_branch_is_worth_what_the_block_loses_without_it():
    generator = torch.Generator().manual_seed(0)
    block, tokens = Residual(), torch.randn(2, 3, 4, generator=generator)
    found = block_importance(nn.ModuleList([block]), lambda: block(tokens), branches=("attn", "ff"))
    without_ff = tokens + block.attn(tokens)
    expected = 1 - F.cosine_similarity(without_ff, block(tokens), dim=-1).mean()
    assert found.branches["ff"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert found.branches["attn"].item() != found.branches["ff"].item()


def test_a_window_compares_what_enters_its_first_block_with_what_leaves_its_last():
    found = measure(*(lambda x, a=a: rotated(x, a) for a in (0.1, 0.3, 0.5)), window=2)
    assert found.values.tolist() == pytest.approx([1 - math.cos(0.4), 1 - math.cos(0.8)], rel=1e-5)


def test_blocks_that_run_never_reaches_are_named():
    blocks = nn.ModuleList([nn.Identity(), nn.Identity()])
    with pytest.raises(ValueError, match="never reached block 1"):
        block_importance(blocks, lambda: blocks[0](CORNERS))


def test_a_block_that_changes_the_shape_of_its_tokens_is_refused_and_no_hook_stays():
    blocks = nn.ModuleList([nn.Linear(2, 3)])
    with pytest.raises(ValueError, match=r"takes tokens \(1, 2, 2\) and returns \[\(1, 2, 3\)\]"):
        block_importance(blocks, lambda: blocks[0](CORNERS))
    assert not blocks[0]._forward_hooks
    assert not blocks[0]._forward_pre_hooks


def test_nan_is_blamed_on_its_block():
    with pytest.raises(ValueError, match="block 1 hold NaN or infinity"):
        measure(lambda x: x, lambda x: x / 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 0}, "bins is 0"),
        ({"time_span": 1.0}, r"outside \[0, 1\]"),
        ({"sampler_timesteps": [500]}, "timesteps 500 to 600, where block 0 was not measured"),
        ({"batch_parts": ("a", "b")}, "no 2 equal parts"),
        ({"branches": ("attn1",)}, "no module 'attn1'"),
        ({"window": 2}, "window is 2"),
        ({"model": None, "sampler_timesteps": [1]}, "need model="),
    ],
)
def test_bad_options_are_refused(options, message):
    model = Turning()
    with pytest.raises(ValueError, match=message):
        block_importance(model.blocks, lambda: model(CORNERS, torch.tensor(900)), **{"model": model, **options})


def test_a_model_in_place_of_its_blocks_is_refused():
    with pytest.raises(TypeError, match=r"blocks is a Turning; it must be its nn\.ModuleList"):
        block_importance(Turning(), lambda: None)


def test_a_block_that_is_listed_twice_is_refused():
    block = nn.Identity()
    with pytest.raises(ValueError, match="more than once"):
        block_importance(nn.ModuleList([block, block]), lambda: None)


def test_a_token_of_zeros_has_no_relative_change_of_norm():
    tokens = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    importance = measure(lambda x: x + torch.tensor([0.0, 10.0]), tokens=tokens)
    assert importance.norm_change.tolist() == [1.0]  # 10 of 5 in the first sample, nothing to count in the second

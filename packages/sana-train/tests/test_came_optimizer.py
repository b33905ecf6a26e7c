import copy
import io

import pytest
import torch
from torch import nn

from sana_train.came import CAME, CAME8bit

SHAPES = [(96, 40), (33, 7), (1, 9), (24, 16, 1, 1), (8, 1, 3, 3), (19,), ()]
BOTH = pytest.mark.parametrize("kind", [CAME, CAME8bit])


def parameters(shapes=SHAPES, *, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def gradients(shapes, step):
    """Of another size in every step."""
    generator = torch.Generator().manual_seed(1000 + step)
    return [torch.randn(shape, generator=generator) * 10.0 ** -(step % 4) for shape in shapes]


def take_steps(optimizer, steps):
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for step in steps:
        for weight, grad in zip(weights, gradients([w.shape for w in weights], step), strict=True):
            weight.grad = grad.to(weight.dtype)
        optimizer.step()


def distance(one, other):
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


def same_state(one, other):
    for (_, states), (_, others) in zip(one.state.items(), other.state.items(), strict=True):
        assert states.keys() == others.keys()
        for name, value in states.items():
            assert value.dtype == others[name].dtype, name
            assert torch.equal(value, others[name]), name


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(96, 40), (33, 7), (300, 1000)])
def test_matrices_move_as_with_came_pytorch(shape, weight_decay):
    came_pytorch = pytest.importorskip("came_pytorch")
    ours, theirs = parameters([shape]), parameters([shape])
    take_steps(CAME(ours, 1e-3, weight_decay=weight_decay), range(50))
    take_steps(came_pytorch.CAME(theirs, 1e-3, weight_decay=weight_decay), range(50))
    assert distance(ours[0], theirs[0]) < 2e-6


def oracle(weight, steps, *, lr, weight_decay=0.0, bias_correction=False, clip=1.0):
    """Algorithm 1 in float64; a tensor that is not a matrix keeps all squares and has no confidence."""
    shape, weight = weight.shape, weight.detach().double()
    matrix = len(shape) in (2, 4) and tuple(shape[2:]) in ((), (1, 1))
    weight = weight.flatten(1) if matrix else weight
    m, v, s = (torch.zeros_like(weight) for _ in range(3))
    v_row, v_col, s_row, s_col = (torch.zeros((), dtype=torch.float64) for _ in range(4))
    for t, grad in enumerate(steps, 1):
        g = grad.double().view(weight.shape)
        one, two, three = (1 - b**t if bias_correction else 1.0 for b in (0.9, 0.999, 0.9999))
        v = 0.999 * v + 0.001 * (g**2 + 1e-30)
        if matrix:
            v_row, v_col = v.mean(1, keepdim=True), v.mean(0)
        u = g / ((v_row * v_col / v_row.mean() if matrix else v) / two).sqrt()
        u = u / max(1.0, u.square().mean().sqrt().item() / clip)
        m = 0.9 * m + 0.1 * u
        s = 0.9999 * s + 0.0001 * ((u - m) ** 2 + 1e-16)
        s_row, s_col = (s.mean(1, keepdim=True), s.mean(0)) if matrix else (s, s)
        confidence = 1 / (s_row * s_col / s_row.mean() / three).sqrt() if matrix else 1.0
        weight = weight - lr * weight_decay * weight - lr * confidence * m / one
    return weight.view(shape)


@pytest.mark.parametrize("options", [{}, {"bias_correction": True}, {"weight_decay": 0.1}])
@pytest.mark.parametrize("shape", [(96, 40), (1, 9), (24, 16, 1, 1), (8, 1, 3, 3), (19,), (), (700, 900), (600_000,)])
def test_steps_are_those_of_algorithm_1_in_float64(shape, options):
    few = 3 if torch.Size(shape).numel() > 1e5 else 20  # these two are stepped in chunks
    (weight,) = parameters([shape])
    start = weight.detach().clone()
    expected = oracle(weight, (gradients([shape], step)[0] for step in range(few)), lr=1e-2, **options)
    take_steps(CAME([weight], 1e-2, **options), range(few))
    # Rounding to float32: 2^-24 in each of about ten operations on an update, and once of the weight in each step.
    allowed = 10 * 2**-24 * (expected - start).norm() + few**0.5 * 2**-24 * expected.norm()
    assert (weight - expected).norm() < allowed


@pytest.mark.parametrize(("bias_correction", "jump"), [(False, 11.1), (True, 1.11)])
@BOTH
def test_the_first_step_is_about_one_lr_only_with_bias_correction(kind, bias_correction, jump):
    """0.1 / sqrt(1e-4 * 0.9^2) = 11.1 and 1 / 0.9 = 1.11, as root mean squares."""
    (weight,) = parameters([(256, 256)])
    before = weight.detach().clone()
    take_steps(kind([weight], 1e-3, bias_correction=bias_correction), range(1))
    assert (weight - before).square().mean().sqrt().item() / 1e-3 == pytest.approx(jump, rel=0.01)


@pytest.mark.parametrize("layout", ["row", "flat", "dynamic"])
def test_eight_bits_change_little(layout):
    if layout == "dynamic":
        pytest.importorskip("bitsandbytes")
    exact, rough = parameters([(400, 700)]), parameters([(400, 700)])
    start = exact[0].detach().clone()
    take_steps(CAME(exact, 1e-4), range(20))
    optimizer = CAME8bit(rough, 1e-4, layout=layout)
    take_steps(optimizer, range(20))
    assert optimizer.state[rough[0]]["codes"].dtype == torch.uint8
    # Half a step of 1/255 of the range of 2048 normal values, some 7 deviations, is 0.8 % of a deviation; the dynamic
    # code loses 1.4 %. Ten momenta overlap in each.
    assert 0 < distance(rough[0] - start, exact[0] - start) < 0.02


def test_only_large_matrices_are_kept_in_eight_bits():
    weights = parameters([(128, 128), (128, 129), (128, 129, 1, 1), (128, 129, 3, 3), (20_000,)])
    optimizer = CAME8bit(weights, 1e-3)
    optimizer.init_state()
    assert ["codes" in optimizer.state[weight] for weight in weights] == [False, True, True, False, False]


@pytest.mark.parametrize("options", [{}, {"layout": "flat", "block_size": 64}])
@BOTH
def test_joined_matrices_move_as_the_one_they_make(kind, options):
    options = {"min_8bit_size": 1500} | options if kind is CAME8bit else {}  # each of them is smaller
    parts = parameters([(16, 32), (24, 32, 1, 1), (8, 32)])
    stacked = nn.Parameter(torch.cat([part.detach().flatten(1) for part in parts]))
    optimizer = kind(parts, 1e-2, joined=[parts], **options)
    whole = kind([stacked], 1e-2, **options)
    for step in range(10):
        stacked.grad = gradients([stacked.shape], step)[0]
        for part, grad in zip(parts, stacked.grad.split([16, 24, 8]), strict=True):
            part.grad = grad.view(part.shape)
        optimizer.step()
        whole.step()
    # 2^-24 from sums in another order; a code that rounds the other way for it would show as 1e-4.
    assert distance(torch.cat([part.flatten(1) for part in parts]), stacked) < 2e-6
    apart = parameters([(16, 32), (24, 32, 1, 1), (8, 32)])
    take_steps(kind(apart, 1e-2, **options), range(10))
    assert distance(torch.cat([part.flatten(1) for part in apart]), stacked) > 1e-3


@BOTH
def test_no_gradient_moves_nothing(kind):
    weights = parameters([(200, 100), (7,), (6, 5, 3, 3)])
    before = copy.deepcopy(weights)
    optimizer = kind(weights, 1e-2)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    for _ in range(3):
        optimizer.step()
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


@BOTH
def test_a_constant_gradient_moves_all_alike(kind):
    (weight,) = parameters([(200, 100)])
    before = weight.detach().clone()
    optimizer = kind([weight], 1e-3)
    for _ in range(5):
        weight.grad = torch.full_like(weight, 3.0)
        optimizer.step()
    moved = weight - before
    assert moved.mean() < -0.05  # a jump of 11 lr and growing
    assert moved.std() < 1e-6


@BOTH
def test_a_nan_spoils_its_own_tensor_only(kind):
    weights = parameters([(200, 100), (201, 100), (7,), (8,)])
    optimizer = kind(weights, 1e-3)
    take_steps(optimizer, range(1))
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    weights[0].grad[3, 4] = weights[2].grad[1] = torch.nan
    optimizer.step()
    assert [weight.isnan().all().item() for weight in weights] == [True, False, True, False]
    assert [weight.isfinite().all().item() for weight in weights] == [False, True, False, True]


def test_bfloat16_weights_are_moved_in_float32_and_rounded_once():
    (rough,) = parameters([(200, 100)], dtype=torch.bfloat16)
    exact = nn.Parameter(rough.detach().float())
    rough.grad = gradients([rough.shape], 0)[0].bfloat16()
    exact.grad = rough.grad.float()
    for weight in (rough, exact):
        CAME([weight], 1e-2, weight_decay=0.1).step()
    assert torch.equal(rough, exact.bfloat16())


@pytest.mark.parametrize("shape", [(100, 200), (20_000,)])
def test_stochastic_rounding_keeps_steps_too_small_for_bfloat16(shape):
    """Near 1 numbers of bfloat16 are 2^-8 apart, and rounding to nearest undoes a step below half of that."""
    moved = []
    for dtype, stochastic in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        weight = nn.Parameter(torch.ones(shape, dtype=dtype))
        optimizer = CAME([weight], 2.0**-13, bias_correction=True, stochastic_rounding=stochastic)
        for step in range(50):
            weight.grad = (1 + gradients([shape], 4 * step)[0]).bfloat16().to(dtype)
            optimizer.step()
        moved.append(1 - weight.detach().double())
    exact, nearest, stochastically = moved
    assert (nearest == 0).all()
    # 50 roundings of 20 000 weights, each off by less than 2^-8 and by none on average.
    assert abs((stochastically - exact).mean()) < 5 * 2**-8 * (50 / 20_000) ** 0.5 < 0.5 * exact.mean()


def test_stochastic_rounding_does_not_depend_on_who_is_stepped_first():
    results = []
    for one_by_one in (False, True):
        weights = parameters([(64, 96), (64, 96)], dtype=torch.bfloat16)
        optimizer = CAME8bit(weights, 1e-2, stochastic_rounding=True)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        if one_by_one:
            (group,) = optimizer.param_groups
            for weight in reversed(weights):
                optimizer.param_groups = [group | {"params": [weight]}]
                optimizer.step()
        else:
            optimizer.step()
        results.append(torch.cat([weight.detach() for weight in weights]))
    assert torch.equal(*results)


@pytest.mark.parametrize("layout", ["row", "flat"])
def test_a_loaded_state_is_the_saved_one_bit_for_bit(layout):
    weights = parameters([(200, 100), (30, 20), (9,)], dtype=torch.bfloat16)
    optimizer = CAME8bit(weights, 1e-3, layout=layout, stochastic_rounding=True, joined=[weights[:1]])
    take_steps(optimizer, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = copy.deepcopy(weights)
    loaded = CAME8bit(others, 0.5, layout=layout)
    loaded.load_state_dict(state_dict=torch.load(file, weights_only=True))
    same_state(optimizer, loaded)
    take_steps(optimizer, range(3, 6))
    take_steps(loaded, range(3, 6))
    same_state(optimizer, loaded)
    assert all(torch.equal(weight, other) for weight, other in zip(weights, others, strict=True))


def test_a_loaded_state_is_a_copy():
    weights = parameters([(200, 100)])
    optimizer = CAME8bit(weights, 1e-3)
    take_steps(optimizer, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    loaded = CAME8bit(parameters([(200, 100)]), 1e-3)
    loaded.load_state_dict(optimizer.state_dict())
    take_steps(loaded, range(2, 4))
    assert torch.equal(optimizer.state[weights[0]]["codes"], saved["state"][0]["codes"])


def test_a_copied_optimizer_goes_on_alike():
    weights = parameters([(200, 100)], dtype=torch.bfloat16)
    optimizer = CAME8bit(weights, 1e-3, stochastic_rounding=True)
    take_steps(optimizer, range(2))
    other = copy.deepcopy(optimizer)
    take_steps(optimizer, range(2, 4))
    take_steps(other, range(2, 4))
    assert torch.equal(weights[0], other.param_groups[0]["params"][0])


def test_state_made_beforehand_changes_no_bit():
    ready, fresh = CAME8bit(parameters(), 1e-3), CAME8bit(parameters(), 1e-3)
    ready.init_state()
    for optimizer in (ready, fresh):
        take_steps(optimizer, range(2))
    same_state(ready, fresh)


def test_the_backend_is_on_record_and_stays_the_optimizers_own(caplog):
    optimizer = CAME8bit(parameters([(4, 4)]), 1e-3)
    state = optimizer.state_dict()
    assert state["param_groups"][0]["backend"] == "eager"
    state["param_groups"][0]["backend"] = "triton"
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["backend"] == "eager"
    assert "saved by backend triton, going on with eager" in caplog.text


def test_a_group_has_options_of_its_own():
    first, second = parameters([(200, 100), (200, 100)])
    optimizer = CAME8bit([{"params": [first]}, {"params": [second], "layout": "flat", "lr": 0.0}], 1e-3)
    before = second.detach().clone()
    take_steps(optimizer, range(1))
    assert optimizer.state[first]["scale"].shape == (200, 1)
    assert optimizer.state[second]["scale"].shape == (10,)
    assert torch.equal(second, before)


def test_a_tensor_can_be_the_learning_rate_and_a_closure_gives_the_loss():
    ours, others = parameters([(30, 20)]), parameters([(30, 20)])
    optimizer = CAME(ours, torch.tensor(1e-3))

    def closure():
        optimizer.zero_grad()
        loss = ours[0].square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0
    others[0].grad = ours[0].grad
    CAME(others, torch.tensor(1e-3).item()).step()
    assert torch.equal(ours[0], others[0])


def test_frozen_and_empty_parameters_are_passed_over():
    weights = [*parameters([(30, 20)]), nn.Parameter(torch.empty(0, 5)), nn.Parameter(torch.ones(3, 3), False)]
    weights[0].grad, weights[1].grad = torch.ones(30, 20), torch.empty(0, 5)
    optimizer = CAME8bit(weights, 1e-3)
    optimizer.init_state()
    optimizer.step()
    assert torch.equal(weights[2], torch.ones(3, 3))
    assert weights[2] not in optimizer.state


@pytest.mark.parametrize("strides", ["transposed", "channels_last"])
def test_memory_of_another_order_is_no_trouble(strides):
    shape = (40, 30) if strides == "transposed" else (40, 30, 1, 1)
    (plain,) = parameters([shape])
    other = plain.detach().clone()
    other = other.T.contiguous().T if strides == "transposed" else other.contiguous(memory_format=torch.channels_last)
    other = nn.Parameter(other)
    for weight in (plain, other):
        take_steps(CAME8bit([weight], 1e-3, min_8bit_size=0), range(3))
    assert distance(other, plain) < 1e-6


@pytest.mark.parametrize("other", [CAME, torch.optim.AdamW])
def test_the_options_of_another_optimizer_are_refused(other):
    weights = parameters([(200, 100)])
    optimizer = other(weights, 1e-3)
    take_steps(optimizer, range(1))
    with pytest.raises(ValueError, match="are another optimizer's"):
        CAME8bit(weights, 1e-3).load_state_dict(optimizer.state_dict())


def test_state_that_does_not_fit_is_refused_and_nothing_changes():
    weights = parameters([(200, 100)])
    optimizer = CAME8bit(weights, 1e-3)
    take_steps(optimizer, range(1))
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0] |= {"layout": "flat", "lr": 7.0}
    with pytest.raises(ValueError, match=r"saved state of a parameter \(200, 100\) is .* is needed"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 1e-3

import pytest
import torch

from sana_train.came import passes
from sana_train.came.blocks import Quantized
from sana_train.came.passes import Factors
from sana_train.came.rounding import Noise

R, C = 6, 10


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def update():
    return Factors(draw(R, seed=1).exp(), draw(C, seed=2).exp())


@pytest.fixture
def confidence():
    return Factors(draw(R, seed=3).exp(), draw(C, seed=4).exp())


def quantized(values):
    made = Quantized(torch.zeros(R, C, dtype=torch.uint8), torch.zeros(R, 2), torch.zeros(R, 2), 5)
    made.write(values)
    return made


def exact(factors):
    return factors.rows.double()[:, None] * factors.columns.double()


MOMENTA = pytest.mark.parametrize("keep", [torch.clone, quantized])
GRADS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def same(actual, expected):
    torch.testing.assert_close(actual.double(), expected, rtol=10 * 2**-24, atol=10 * 2**-24)


@GRADS
def test_square_sums_are_over_rows_and_columns(dtype):
    grad = draw(R, C, dtype=dtype)
    rows, columns = passes.square_sums(grad)
    same(rows, grad.double().square().sum(1))
    same(columns, grad.double().square().sum(0))


@GRADS
def test_the_update_norm_is_of_the_scaled_gradient(dtype, update):
    grad = draw(R, C, dtype=dtype)
    same(passes.update_norm(grad, update), (grad.double() * exact(update)).square().sum())


@GRADS
@MOMENTA
def test_residuals_are_of_the_new_momentum(dtype, keep, update):
    grad, momentum = draw(R, C, dtype=dtype), keep(draw(R, C, seed=5))
    old = momentum if keep is torch.clone else momentum.read()
    u = grad.double() * exact(update)
    squares = (u - (0.9 * old.double() + 0.1 * u)).square()
    rows, columns = passes.residual_sums(grad, update, momentum, beta1=0.9)
    same(rows, squares.sum(1))
    same(columns, squares.sum(0))


@GRADS
@MOMENTA
def test_weights_move_by_the_exact_momentum_and_it_is_kept(dtype, keep, update, confidence):
    weight, grad, momentum = draw(R, C, seed=6), draw(R, C, dtype=dtype), keep(draw(R, C, seed=5))
    old = (momentum if keep is torch.clone else momentum.read()).double()
    m = 0.9 * old + 0.1 * grad.double() * exact(update)
    expected = weight.double() * (1 - 0.01 * 0.3) - 0.01 * m * exact(confidence)
    passes.apply(weight, grad, momentum, update, confidence, beta1=0.9, lr=0.01, weight_decay=0.3)
    same(weight, expected)
    if keep is torch.clone:
        same(momentum, m)
    else:
        assert torch.equal(momentum.codes, quantized(m.float()).codes)


def test_a_small_decay_is_not_lost_in_rounding():
    """1 - 1e-8 is 1 in float32."""
    weight = torch.full((1,), 1.0)
    passes.move(weight, torch.full((1,), 2.0**-24), decay=2.0**-24, noise=None)
    assert weight.item() == 1 - 2.0**-23


def test_noise_is_for_bfloat16_alone():
    for dtype in (torch.float32, torch.float16):
        one, other = torch.ones(100, dtype=dtype), torch.ones(100, dtype=dtype)
        passes.move(one, torch.full((100,), 1e-3), decay=None, noise=Noise(1, 0))
        passes.move(other, torch.full((100,), 1e-3), decay=None, noise=None)
        assert torch.equal(one, other)


def test_passes_leave_their_operands_alone(update):
    grad, momentum = draw(R, C), draw(R, C, seed=5)
    before = grad.clone(), momentum.clone()
    passes.square_sums(grad)
    passes.update_norm(grad, update)
    passes.residual_sums(grad, update, momentum, beta1=0.9)
    assert torch.equal(grad, before[0])
    assert torch.equal(momentum, before[1])

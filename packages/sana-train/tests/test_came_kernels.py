"""The Triton passes against the reference: on tiny matrices in Triton's interpreter, on a GPU also on real ones."""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install 'sana-train[triton]'")

from sana_train.came import CAME8bit, passes, passes_triton
from sana_train.came.blocks import Quantized, row_blocks
from sana_train.came.passes import Factors, Momentum
from sana_train.came.rounding import Noise, round_to_bfloat16

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("needs a GPU, or the interpreter, in which test_came_triton.py runs it", allow_module_level=True)

# Sides with and without a remainder in every tile, more than one tile each way, one row, one element, no row.
SHAPES = [(5, 37), (131, 3), (2, 600), (1, 16), (1, 1), (0, 6), (5, 37)]
REAL_SHAPES = [(2240, 2240), (11200, 2240), (2240, 5600)]

UNIT = 2.0**-24  # the relative error of one float32 operation
# The terms of a sum are not negative, so its relative error is bounded by the roundings a term passes through: five to
# make it, at most 32 additions in a program's registers, 16 in its tree and 40 over partial sums. Twice: two sums.
SUMMED = 200 * UNIT
# M, the weight and the terms of a sum come from at most eight operations on values below 16; twice again.
COMPUTED = 16 * 16 * UNIT


@dataclass
class Step:
    """Matrices and all that the passes take."""

    grads: list[Tensor]
    weights: list[Tensor]
    momenta: list[Momentum]
    updates: list[Factors]
    confidences: list[Factors]
    noises: list[Noise]

    def only(self, place: int) -> "Step":
        return Step(**{name: [copy.deepcopy(members[place])] for name, members in vars(self).items()})


def quantized(values: Tensor, block_size: int) -> Quantized:
    blocks, width = row_blocks(values.shape[1], block_size)
    scale, low = values.new_empty(values.shape[0], blocks), values.new_empty(values.shape[0], blocks)
    momentum = Quantized(torch.empty_like(values, dtype=torch.uint8), scale, low, width)
    momentum.write(values)
    return momentum


def make_step(shapes: list[tuple[int, int]], dtype: torch.dtype, *, block_size: int = 20) -> Step:
    """Values around 1; the momentum in blocks, but for matrices of three columns."""
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=DEVICE)

    def uniform(size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=DEVICE)

    def factors(rows: int, columns: int) -> Factors:
        return Factors(uniform(rows) + 0.5, uniform(columns) + 0.5)

    return Step(
        grads=[normal(*shape).to(dtype) for shape in shapes],
        weights=[normal(*shape).to(dtype) for shape in shapes],
        momenta=[normal(*shape) if shape[1] == 3 else quantized(normal(*shape), block_size) for shape in shapes],
        updates=[factors(*shape) for shape in shapes],
        confidences=[factors(*shape) for shape in shapes],
        noises=[Noise(2**32 - 7 * number, 1000 * number) for number in range(len(shapes))],
    )


def apply_both(step: Step, *, stochastic: bool = False) -> tuple[Step, Step]:
    """The step after `apply` of Triton and after that of the reference."""
    ours, reference = copy.deepcopy(step), copy.deepcopy(step)
    options = {"beta1": 0.9, "lr": 0.1, "weight_decay": 0.5}
    lists = ours.weights, ours.grads, ours.momenta, ours.updates, ours.confidences
    passes_triton.apply(*lists, **options, noises=ours.noises if stochastic else None)
    for number, noise in enumerate(reference.noises):
        weight, grad, momentum = (x[number] for x in (reference.weights, reference.grads, reference.momenta))
        factors = reference.updates[number], reference.confidences[number]
        passes.apply(weight, grad, momentum, *factors, **options, noise=noise if stochastic else None)
    return ours, reference


def values(momentum: Momentum) -> Tensor:
    return momentum if isinstance(momentum, Tensor) else momentum.read()


def spacing(momentum: Momentum) -> Tensor | float:
    """By how much the value of a code changes with it, (r, C)."""
    if isinstance(momentum, Tensor):
        return 0.0
    return momentum.scale.repeat_interleave(momentum.width, 1)[:, : momentum.codes.shape[1]]


def assert_momenta_agree(ours: list[Momentum], reference: list[Momentum]) -> None:
    """Codes differ by at most one, and only where a value lies halfway between two: a share 255 * COMPUTED of all."""
    for mine, its in zip(ours, reference, strict=True):
        error = (values(mine) - values(its)).abs()
        assert (error <= spacing(its) + COMPUTED).all()
        if isinstance(mine, Quantized) and isinstance(its, Quantized):
            assert (mine.codes != its.codes).sum() <= 1 + 255 * COMPUTED * mine.codes.numel()


@pytest.fixture(autouse=True)
def _memory_starts_as_nan() -> Iterator[None]:
    """With deterministic algorithms `torch.empty` is full of NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(9).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_square_sums_are_those_of_the_reference(dtype):
    step = make_step(SHAPES, dtype)
    expected = [passes.square_sums(grad) for grad in step.grads]
    torch.testing.assert_close(passes_triton.square_sums(step.grads), expected, rtol=SUMMED, atol=0)


def test_partial_sums_of_many_tiles_are_all_added_up():
    grad = torch.ones(4200, 128, device=DEVICE)  # 33 tiles high; 32 are added up at once
    ((rows, columns),) = passes_triton.square_sums([grad])
    assert (rows == 128).all()
    assert (columns == 4200).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_update_norm_is_that_of_the_reference(dtype):
    step = make_step(SHAPES, dtype)
    expected = [passes.update_norm(*both) for both in zip(step.grads, step.updates, strict=True)]
    torch.testing.assert_close(passes_triton.update_norm(step.grads, step.updates), expected, rtol=SUMMED, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_residual_sums_are_those_of_the_reference(dtype):
    step = make_step(SHAPES, dtype)
    lists = step.grads, step.updates, step.momenta
    expected = [passes.residual_sums(*all_three, beta1=0.9) for all_three in zip(*lists, strict=True)]
    torch.testing.assert_close(passes_triton.residual_sums(*lists, beta1=0.9), expected, rtol=SUMMED, atol=COMPUTED)


def test_apply_moves_float32_weights_and_momenta_as_the_reference():
    ours, reference = apply_both(make_step(SHAPES, torch.float32))
    torch.testing.assert_close(ours.weights, reference.weights, rtol=0, atol=COMPUTED)
    assert_momenta_agree(ours.momenta, reference.momenta)


def test_apply_moves_bfloat16_weights_as_the_reference():
    ours, reference = apply_both(make_step(SHAPES, torch.bfloat16))
    # One place of bfloat16's eight bits, since the interpreter rounds towards zero.
    torch.testing.assert_close(ours.weights, reference.weights, rtol=2.0**-7, atol=COMPUTED)
    assert_momenta_agree(ours.momenta, reference.momenta)


def test_a_matrix_gets_the_same_bits_alone_as_in_a_list():
    step = make_step([(5, 37), (3, 20), (5, 37), (5, 37)], torch.float32)
    step.momenta[2:] = [quantized(values(step.momenta[2]), 37), values(step.momenta[3])]  # alike but for the momentum
    together, _ = apply_both(step)
    sums = passes_triton.residual_sums(step.grads, step.updates, step.momenta, beta1=0.9)
    for place in (0, 2, 3):
        alone = step.only(place)
        (rows_and_columns,) = passes_triton.residual_sums(alone.grads, alone.updates, alone.momenta, beta1=0.9)
        assert all(map(torch.equal, rows_and_columns, sums[place]))
        assert torch.equal(apply_both(alone)[0].weights[0], together.weights[place])


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # NumPy's, in the interpreter
def test_a_block_is_stored_as_the_reference_stores_it():
    nan, inf = torch.nan, torch.inf
    rows = [
        [3.0] * 6,
        [0.0] * 6,
        [1, 2, nan, 3, 4, 5],
        [1, 2, 3, inf, 4, 5],
        [-inf, 0, 0, 1, 0, 2],
        [0, 1e-38, 0, 0, 0, 1],
    ]
    grad = torch.tensor(rows, device=DEVICE)
    expected, momentum = quantized(grad, 3), quantized(torch.zeros_like(grad), 3)
    # With beta1 = 0 and factors of one the new momentum is the gradient.
    ones = Factors(torch.ones(6, device=DEVICE), torch.ones(6, device=DEVICE))
    passes_triton.apply([torch.zeros_like(grad)], [grad], [momentum], [ones], [ones], beta1=0.0, lr=1.0)
    for name in ("codes", "scale", "low"):
        mine, its = getattr(momentum, name), getattr(expected, name)
        torch.testing.assert_close(mine, its, rtol=4 * UNIT, atol=0, equal_nan=True)


def rounded(gradient: Tensor, noise: Noise) -> Tensor:
    """Minus the gradient, as a bfloat16 weight that was 0 becomes it at beta1 = 0 and a learning rate of 1."""
    weight, momentum = torch.zeros_like(gradient, dtype=torch.bfloat16), torch.zeros_like(gradient)
    ones = Factors(*(torch.ones(size, device=gradient.device) for size in gradient.shape))
    passes_triton.apply([weight], [gradient], [momentum], [ones], [ones], beta1=0.0, lr=1.0, noises=[noise])
    return weight


def test_stochastic_rounding_draws_the_bits_of_the_reference():
    gradient = torch.randn(5, 37, device=DEVICE)
    noise = Noise(2**32 - 9, 123)
    assert torch.equal(rounded(gradient, noise), round_to_bfloat16(-gradient, noise))
    assert not torch.equal(rounded(gradient, noise), rounded(gradient, Noise(8, 123)))


def test_stochastic_rounding_is_right_on_average():
    gradient = torch.full((64, 64), -1 - 2.0**-9, device=DEVICE)  # a quarter of the way from 1 to the next bfloat16
    up = rounded(gradient, Noise(1, 0)) > 1
    # Five standard errors of 4096 draws: 5 * sqrt(1/4 * 3/4 / 4096).
    assert abs(up.float().mean() - 0.25) < 0.034


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_stochastic_rounding_keeps_nan_and_infinity():
    cuda_nan = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # adding to its bits changes its sign
    gradient = torch.tensor([[torch.nan, cuda_nan, torch.inf, -torch.inf, 0.0]], device=DEVICE)
    expected = -gradient.bfloat16()
    torch.testing.assert_close(rounded(gradient, Noise(3, 0)), expected, rtol=0, atol=0, equal_nan=True)


def test_nothing_beside_a_matrix_is_written():
    step = make_step([(17, 37)], torch.float32)
    held = [step.weights[0], step.momenta[0].codes, step.momenta[0].scale, step.momenta[0].low]
    memory = [torch.full((tensor.numel() + 65,), 77, dtype=tensor.dtype, device=DEVICE) for tensor in held]
    # Off by one element, so that nothing is aligned to 16 bytes.
    inner = [m[1 : tensor.numel() + 1].view(tensor.shape).copy_(tensor) for m, tensor in zip(memory, held, strict=True)]
    step.weights[0], step.momenta[0] = inner[0], Quantized(*inner[1:], step.momenta[0].width)
    passes_triton.apply(step.weights, step.grads, step.momenta, step.updates, step.confidences, beta1=0.9, lr=0.1)
    for whole, tensor in zip(memory, held, strict=True):
        assert whole[0] == 77
        assert (whole[tensor.numel() + 1 :] == 77).all()
    assert not torch.equal(inner[0], held[0])


def test_what_the_kernels_cannot_take_is_refused():
    step = make_step([(4, 6)], torch.float32)
    with pytest.raises(ValueError, match=r"takes float32, bfloat16, float16, got torch\.float64"):
        passes_triton.square_sums([step.grads[0].double()])
    with pytest.raises(ValueError, match=r"contiguous tensors, got shape \(6, 4\) with strides \(1, 6\)"):
        passes_triton.square_sums([step.grads[0].t()])
    flat = Quantized(step.momenta[0].codes, *torch.zeros(2, 2, device=DEVICE), 12)
    with pytest.raises(ValueError, match="in row blocks"):
        passes_triton.residual_sums(step.grads, step.updates, [flat], beta1=0.9)


def test_an_optimizer_steps_as_with_the_eager_backend():
    def trained(backend: Literal["eager", "triton"]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = [(12, 40), (4, 6, 1, 1), (12, 40), (7,)]
        weights = [torch.randn(shape, generator=generator).to(DEVICE).requires_grad_() for shape in shapes]
        options = {"weight_decay": 0.1, "block_size": 16, "min_8bit_size": 100, "joined": [weights[0:3:2]]}
        optimizer = CAME8bit(weights, 0.01, **options, backend=backend)
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator).to(DEVICE)
            optimizer.step()
        return weights

    # A code may differ by one of 255 where a value lies between two: 1/255 of lr times updates below 16, thrice.
    torch.testing.assert_close(trained("triton"), trained("eager"), rtol=0, atol=0.01 * 16 / 255 * 3)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_sizes_agree_with_the_reference_on_a_gpu(dtype):
    step = make_step(REAL_SHAPES, dtype, block_size=2048)
    lists = step.grads, step.updates, step.momenta
    expected = [passes.residual_sums(*all_three, beta1=0.9) for all_three in zip(*lists, strict=True)]
    torch.testing.assert_close(passes_triton.residual_sums(*lists, beta1=0.9), expected, rtol=SUMMED, atol=0)
    expected = [passes.square_sums(grad) for grad in step.grads]
    torch.testing.assert_close(passes_triton.square_sums(step.grads), expected, rtol=SUMMED, atol=0)
    expected = [passes.update_norm(*both) for both in zip(step.grads, step.updates, strict=True)]
    torch.testing.assert_close(passes_triton.update_norm(*lists[:2]), expected, rtol=SUMMED, atol=0)
    ours, reference = apply_both(step)
    place = 2.0**-7 if dtype == torch.bfloat16 else 0  # where the exact weight lies halfway between two bfloat16
    torch.testing.assert_close(ours.weights, reference.weights, rtol=place, atol=COMPUTED)
    assert_momenta_agree(ours.momenta, reference.momenta)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_a_step_gives_the_same_bits_every_time_on_a_gpu():
    step = make_step(REAL_SHAPES * 3, torch.bfloat16, block_size=2048)
    runs = [
        (passes_triton.residual_sums(step.grads, step.updates, step.momenta, beta1=0.9), apply_both(step)[0].weights)
        for _ in range(3)
    ]
    torch.testing.assert_close(runs[1:], runs[:1] * 2, rtol=0, atol=0)

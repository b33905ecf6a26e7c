import shutil

import pytest
import torch

from sana_train.came.blocks import Quantized, row_blocks
from sana_train.came.chunked import ChunkedPasses
from sana_train.came.passes import Factors, apply, residual_sums, square_sums, update_norm
from sana_train.came.rounding import Noise


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(rows, columns, size, layout="row"):
    count, width = row_blocks(columns, size) if layout == "row" else (-(-rows * columns // size), size)
    ranges = (rows, count) if layout == "row" else (count,)
    made = Quantized(torch.zeros(rows, columns, dtype=torch.uint8), torch.zeros(ranges), torch.zeros(ranges), width)
    made.write(draw(rows, columns, seed=5))
    return made


def take(passes, shape, layout="row"):
    """All that the four passes give and change, for one matrix."""
    grad, weight, momentum = draw(*shape), draw(*shape, seed=1).bfloat16(), quantized(*shape, 512, layout)
    update, confidence = (Factors(draw(shape[0], seed=s).exp(), draw(shape[1], seed=s + 1).exp()) for s in (2, 4))
    squares = passes.square_sums([grad])[0]
    norm = passes.update_norm([grad], [update])[0]
    residuals = passes.residual_sums([grad], [update], [momentum], beta1=0.9)[0]
    options = {"beta1": 0.9, "lr": 1e-3, "weight_decay": 0.1, "noises": [Noise(3, 70)]}
    passes.apply([weight], [grad], [momentum], [update], [confidence], **options)
    return [*squares, norm, *residuals], [weight, momentum.codes, momentum.scale, momentum.low]


class AtOnce:
    """The passes over the whole matrix."""

    def square_sums(self, grads):
        return [square_sums(grads[0])]

    def update_norm(self, grads, updates):
        return [update_norm(grads[0], updates[0])]

    def residual_sums(self, grads, updates, momenta, *, beta1):
        return [residual_sums(grads[0], updates[0], momenta[0], beta1=beta1)]

    def apply(self, *operands, noises, **options):
        apply(operands[0][0], operands[1][0], *(operand[0] for operand in operands[2:]), noise=noises[0], **options)


@pytest.mark.parametrize(
    ("shape", "layout"), [((401, 1500), "row"), ((401, 1500), "flat"), ((3, 300_000), "row"), ((0, 7), "row")]
)
def test_chunks_make_the_whole(shape, layout):
    sums, changed = take(ChunkedPasses(compiled=False), shape, layout)
    all_sums, all_changed = take(AtOnce(), shape, layout)
    for one, other in zip(sums, all_sums, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)  # sums of as many numbers in another order
    assert all(torch.equal(one, other) for one, other in zip(changed, all_changed, strict=True))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own
def test_compiled_passes_agree():
    sums, changed = take(ChunkedPasses(compiled=True), (41, 1500))
    all_sums, all_changed = take(AtOnce(), (41, 1500))
    for one, other in zip(sums, all_sums, strict=True):
        # Compiled sums add up 61 500 numbers in 16 lanes, one after the other: sqrt(3844) roundings of 2^-24 remain.
        torch.testing.assert_close(one, other, rtol=4e-6, atol=0)
    weight, codes, scale, low = changed
    torch.testing.assert_close([scale, low], list(all_changed[2:]), rtol=1e-6, atol=0)
    assert (codes.int() - all_changed[1].int()).abs().max() <= 1  # a value between two codes may go either way
    assert (codes != all_changed[1]).float().mean() < 1e-3
    torch.testing.assert_close(weight, all_changed[0], rtol=2**-7, atol=0)  # and so may a weight
    assert (weight != all_changed[0]).float().mean() < 1e-3

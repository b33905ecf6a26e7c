"""The fused gated depthwise convolution, forward and backward."""

from functools import partial

import pytest
import torch

from sana_dit.ops.gated_depthwise import fused, reference

# Height, width, features: one cell; one more than the columns of a program, than its channels and rows, than its sums.
SMALL = [(1, 1, 5), (3, 5, 3), (9, 2, 129), (33, 1, 2)]
REAL = [(32, 32, 5600), (64, 64, 5600), (31, 33, 2880)]


def check(sizes, dtype, draw, assert_exact, *, batch):
    height, width, features = sizes
    operands = (
        draw(batch, height * width, 2 * features, dtype=dtype),
        draw(2 * features, 1, 3, 3, dtype=dtype),
        draw(2 * features, dtype=dtype),
    )
    grid = {"height": height, "width": width}
    assert_exact(partial(fused.gated_depthwise, **grid), partial(reference.gated_depthwise, **grid), *operands)


@pytest.mark.parametrize(("sizes", "dtype"), [*((sizes, torch.float32) for sizes in SMALL), ((3, 5, 3), torch.float16)])
def test_is_as_exact_as_plain_pytorch(sizes, dtype, draw, assert_exact):
    check(sizes, dtype, draw, assert_exact, batch=2 if sizes == (3, 5, 3) else 1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sizes", [*SMALL, *REAL])
def test_is_as_exact_as_plain_pytorch_on_a_gpu(sizes, dtype, draw, assert_exact):
    check(sizes, dtype, draw, assert_exact, batch=2)


def test_the_layout_of_the_tokens_does_not_matter(draw):
    u, weight, bias = (draw(*shape, dtype=torch.float32) for shape in ((1, 4, 6), (4, 1, 3, 3), (4,)))
    expected = reference.gated_depthwise(u.mT, weight, bias, height=2, width=3)
    torch.testing.assert_close(fused.gated_depthwise(u.mT, weight, bias, height=2, width=3), expected)


def test_torch_compile_and_autograd_see_the_operation(draw):
    shapes = (1, 1, 4), (4, 1, 3, 3), (4,)
    operands = tuple(draw(*shape, dtype=torch.float32).requires_grad_() for shape in shapes)
    torch.library.opcheck(torch.ops.sana_dit.gated_depthwise.default, (*operands, 1, 1))

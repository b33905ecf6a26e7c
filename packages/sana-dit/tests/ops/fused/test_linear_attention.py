"""The fused linear attention, forward and backward."""

from functools import partial

import pytest
import torch

from sana_dit.ops.linear_attention import fused, reference

# Tokens, heads, head dim: one token (whose q gets no gradient but rounding errors, luck unless heads are many), one
# more than a tile, one more than the tokens of a state.
SMALL = [(1, 8, 32), (67, 3, 16), (257, 1, 32), (5, 2, 64), (33, 1, 128)]
REAL = [(1024, 70, 32), (4096, 70, 32), (1023, 36, 32), (1024, 35, 64), (1000, 17, 128), (777, 8, 16)]


def check(sizes, dtype, draw, assert_exact, *, normed=True, batch=2):
    tokens, heads, dim = sizes
    operands = [draw(batch, tokens, heads * dim, dtype=dtype) for _ in "qkv"]
    norms = [1 + 0.1 * draw(heads * dim, dtype=dtype) if normed else None for _ in "qk"]

    def attend(attention, q, k, v, q_norm, k_norm):
        return attention(q, k, v, num_heads=heads, q_norm=q_norm, k_norm=k_norm)

    functions = (partial(attend, module.linear_attention) for module in (fused, reference))
    assert_exact(*functions, *operands, *norms)


@pytest.mark.parametrize("sizes", SMALL)
def test_is_as_exact_as_plain_pytorch(sizes, dtype, draw, assert_exact):
    check(sizes, dtype, draw, assert_exact, batch=1 if sizes[0] > 100 else 2)


def test_norms_can_be_left_out(draw, assert_exact):
    check((67, 2, 32), torch.float32, draw, assert_exact, normed=False)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normed", [True, False], ids=["normed", "plain"])
@pytest.mark.parametrize("sizes", REAL)
def test_is_as_exact_as_plain_pytorch_at_real_sizes(sizes, normed, dtype, draw, assert_exact):
    check(sizes, dtype, draw, assert_exact, normed=normed, batch=1)


def test_tokens_without_a_positive_key_give_zero_and_not_nan(draw):
    q, k, v = (draw(1, 4, 32, dtype=torch.float32) for _ in "qkv")
    assert torch.equal(fused.linear_attention(q, -k.abs(), v, num_heads=1), torch.zeros_like(v))


def test_nan_in_a_query_or_key_is_not_hidden_by_the_relu(draw):
    q, k, v = (draw(1, 4, 32, dtype=torch.float32) for _ in "qkv")
    k[0, 2, 5] = torch.nan
    assert fused.linear_attention(q, k, v, num_heads=1).isnan().all()
    assert fused.linear_attention(k, q, v, num_heads=1)[0, 2].isnan().all()


@pytest.mark.parametrize("eps", [1e-15, 1e-8])
def test_eps_is_added_to_the_normaliser(eps, draw):
    q, k, v = (1e-4 * draw(1, 5, 32, dtype=torch.float32) for _ in "qkv")  # normalisers of 1e-7
    expected = reference.linear_attention(q, k, v, num_heads=1, eps=eps)
    torch.testing.assert_close(fused.linear_attention(q, k, v, num_heads=1, eps=eps), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("normed", [True, False], ids=["normed", "plain"])
def test_torch_compile_and_autograd_see_the_operation(normed, draw):
    operands = [draw(1, 3, 32, dtype=torch.float32).requires_grad_() for _ in "qkv"]
    norms = [draw(32, dtype=torch.float32).requires_grad_() if normed else None for _ in "qk"]
    torch.library.opcheck(torch.ops.sana_dit.linear_attention.default, (*operands, *norms, 2, 1e-5, 1e-15))

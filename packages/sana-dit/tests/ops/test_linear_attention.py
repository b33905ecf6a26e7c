"""Linear attention against its definition, term by term in float64."""

import pytest
import torch

from sana_dit import linear_attention, rms_norm

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def definition(q, k, v, *, num_heads, eps=1e-15):
    """Sums over every pair of tokens of every head."""
    q, k, v = q.double().relu(), k.double().relu(), v.double()
    out = torch.zeros_like(v)
    size = q.shape[2] // num_heads
    for b in range(q.shape[0]):
        for head in range(num_heads):
            c = slice(head * size, (head + 1) * size)
            for i in range(q.shape[1]):
                weights = [(q[b, i, c] * k[b, j, c]).sum() for j in range(q.shape[1])]
                numerator = sum(w * v[b, j, c] for j, w in enumerate(weights))
                out[b, i, c] = numerator / (sum(weights) + eps)
    return out


def draw(tokens, width, *, batch=2, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(3, batch, tokens, width, generator=generator)).unbind()


@pytest.mark.parametrize("head_dim", [16, 32, 64, 128])
@pytest.mark.parametrize("tokens", [1, 2, 7, 12])
def test_equals_the_definition(tokens, head_dim):
    q, k, v = draw(tokens, 2 * head_dim)
    # Values are of order 1 and every sum has at most 128 terms of float32.
    expected = definition(q, k, v, num_heads=2)
    torch.testing.assert_close(
        linear_attention(q, k, v, num_heads=2), expected, check_dtype=False, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("eps", [1e-15, 1e-8])
def test_eps_is_added_to_the_normaliser(eps):
    q, k, v = draw(5, 32, scale=1e-4)  # normalisers of 1e-7, where 1e-8 counts and 1e-15 does not
    out = linear_attention(q, k, v, num_heads=1, eps=eps)
    expected = definition(q, k, v, num_heads=1, eps=eps)
    torch.testing.assert_close(out, expected, check_dtype=False, rtol=1e-4, atol=1e-9)


def test_norms_span_all_heads_and_come_before_the_relu():
    q, k, v = draw(6, 64)
    q_weight, k_weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(1)).unbind()
    normed = linear_attention(q, k, v, num_heads=2, q_norm=q_weight, k_norm=k_weight, norm_eps=0.1)
    by_hand = (x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * w for x, w in ((q, q_weight), (k, k_weight)))
    torch.testing.assert_close(normed, linear_attention(*by_hand, v, num_heads=2), rtol=1e-5, atol=1e-5)


def test_tokens_without_a_positive_key_give_zero_and_not_nan():
    q, k, v = draw(4, 32)
    out = linear_attention(q, -k.abs(), v, num_heads=1)
    assert torch.equal(out, torch.zeros_like(v))


def test_bfloat16_is_multiplied_in_float32_by_default():
    q, k, v = (x.bfloat16() for x in draw(12, 64))
    out = linear_attention(q, k, v, num_heads=2)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, linear_attention(q.float(), k.float(), v.float(), num_heads=2).bfloat16())


def test_without_upcast_bfloat16_products_are_rounded_and_the_division_is_not():
    q, k, v = (x.bfloat16() for x in draw(12, 32))
    padded = torch.cat([v, torch.ones(2, 12, 1, dtype=torch.bfloat16)], dim=2)
    state = (k.float().relu().transpose(1, 2) @ padded.float()).bfloat16()  # sums in float32, stored in bfloat16
    out = (q.float().relu() @ state.float()).bfloat16().float()
    expected = (out[..., :-1] / (out[..., -1:] + 1e-8)).bfloat16()
    actual = linear_attention(q, k, v, num_heads=1, eps=1e-8, upcast=False)
    # Sums in another order round to the neighbouring bfloat16 now and then: two of them, 2^-8 each.
    torch.testing.assert_close(actual, expected, rtol=2**-7, atol=2**-7)
    assert not torch.equal(actual, linear_attention(q, k, v, num_heads=1, eps=1e-8))


def test_float16_is_multiplied_in_float32_even_without_upcast():
    q, k, v = (x.half() for x in draw(64, 32, scale=60.0))  # sums of squares pass 65504
    out = linear_attention(q, k, v, num_heads=1, upcast=False)
    assert out.isfinite().all()
    assert torch.equal(out, linear_attention(q, k, v, num_heads=1))


def test_autocast_does_not_reach_the_float32_products():
    q, k, v = draw(12, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = linear_attention(q, k, v, num_heads=2)
    assert torch.equal(inside, linear_attention(q, k, v, num_heads=2))


def test_gradients_are_those_of_finite_differences():
    q, k, v = (x.double().requires_grad_() for x in draw(3, 16, batch=1))
    weight = torch.rand(16, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def attend(q, k, v, weight):
        return linear_attention(q, k, v, num_heads=1, q_norm=weight, k_norm=weight)

    assert torch.autograd.gradcheck(attend, (q, k, v, weight))


def test_memory_layout_of_the_inputs_does_not_matter():
    q, k, v = draw(6, 64)
    strided = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    expected = linear_attention(q, k, v, num_heads=2)
    torch.testing.assert_close(linear_attention(*strided, num_heads=2), expected, rtol=1e-6, atol=1e-6)


def test_a_norm_weight_in_float32_is_used_as_it_is():
    q, k, v = (x.bfloat16() for x in draw(6, 32))
    weight = torch.full((32,), 1 + 2**-10)  # bfloat16 would make it 1
    out = linear_attention(q, k, v, num_heads=1, q_norm=weight, k_norm=weight)
    normed = (rms_norm(x.float(), weight, eps=1e-5) for x in (q, k))
    assert torch.equal(out, linear_attention(*normed, v.float(), num_heads=1).bfloat16())

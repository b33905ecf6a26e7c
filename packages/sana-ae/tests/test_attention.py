"""Multi-scale linear attention against its definition and diffusers."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import SanaMultiscaleLinearAttention

from sana_ae.attention import MultiscaleAttention, attend, summarise


def quadratic(qkv):
    q, k, v = qkv.double().chunk(3, dim=-1)
    scores = F.relu(q) @ F.relu(k).transpose(-1, -2)
    return scores / (scores.sum(-1, keepdim=True) + 1e-15) @ v


def test_linear_attention_is_the_quadratic_form_by_other_brackets(relative_error):
    qkv = torch.randn(2, 3, 50, 24)
    assert relative_error(attend(qkv, summarise(qkv)), quadratic(qkv)) < 1e-6


def test_a_pixel_that_attends_to_nothing_gets_zero():
    qkv = -torch.rand(1, 1, 4, 24)
    assert torch.equal(attend(qkv, summarise(qkv)), torch.zeros(1, 1, 4, 8))


def test_summaries_of_parts_add_up():
    qkv = torch.randn(1, 2, 60, 24)
    parts = summarise(qkv[:, :, :13]) + summarise(qkv[:, :, 13:])
    torch.testing.assert_close(parts, summarise(qkv))


def test_sums_over_many_pixels_stay_exact_under_autocast(relative_error):
    qkv = torch.rand(1, 1, 4096, 24).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(qkv, summarise(qkv))
    assert out.dtype == torch.bfloat16
    assert relative_error(out, quadratic(qkv)) < 2**-8  # one rounding; sums in bf16 would be off by 10 % and more


@pytest.mark.parametrize("kernel_sizes", [(), (5,), (3, 5)], ids=str)
@pytest.mark.parametrize("side", [4, 9], ids=["quadratic in diffusers", "linear in diffusers"])
def test_it_is_that_of_diffusers_whose_to_q_to_k_and_to_v_are_thirds_of_one_matrix(kernel_sizes, side, relative_error):
    theirs = SanaMultiscaleLinearAttention(
        64, 64, attention_head_dim=32, norm_type="rms_norm", kernel_sizes=kernel_sizes, residual_connection=True
    )
    ours = MultiscaleAttention(64, head_dim=32, kernel_sizes=kernel_sizes, norm="rms_norm")
    weights = theirs.state_dict()
    thirds = [weights.pop(f"to_{letter}.weight") for letter in "qkv"]
    ours.load_state_dict({**weights, "to_qkv.weight": torch.cat(thirds)})
    x = torch.randn(2, 64, side, side)
    assert relative_error(ours(x), theirs(x)) < 1e-6


def test_heads_are_interleaved_in_the_rows_of_to_qkv():
    attention = MultiscaleAttention(64, head_dim=32, kernel_sizes=(), norm="rms_norm")
    x = torch.randn(1, 64, 2, 3)
    heads = attention.heads(attention.qkv(x))  # (B, heads, N, 3D)
    second_key = x.flatten(2).transpose(1, 2) @ attention.to_qkv.weight[3 * 32 + 32 : 3 * 32 + 64].T
    torch.testing.assert_close(heads[:, 1, :, 32:64], second_key)

"""Linear attention in two passes, its states and sums in float32, with its gradients.

Bytes per element of q in 16 bits, norms included: 12 forward (q and k for the norms' scales, k and v for the states, q
and the output) and 8 without norms, where plain PyTorch, in float32, moves 93 and 69; 38 backward, 18 without norms.
States of 256 tokens add 15 % to what is read of k and v. Launches: 3 forward and 2 more for norms; 4 backward and 2
for each norm. The backward reads q and the upstream gradient twice, 4 bytes: one kernel that gives the gradients of the
queries and of their state holds two states, and spills from heads of 64 on.
"""

from math import ceil
from typing import Any

import torch
from torch import Tensor

from sana_dit.ops.launch import Launch
from sana_dit.ops.linear_attention import kernels
from sana_dit.ops.rms_norm.fused import gradients as norm_gradients
from sana_dit.ops.tiles import Tiles, row_block, tiles_of

Factors = tuple[Tensor, Tensor]  # 1 / normaliser and the normaliser's gradient (B, heads, N) in float32

_SUMMED_TOKENS = 256  # of a program that writes a state: 280 programs for 1024 tokens of 70 heads
_SLICE = 32  # rows or columns of a state that the backward multiplies by at once: a whole one of 128 would spill
_SHORT_SLICE = 16  # of rows of 128 in full float32, of which 32 took 255 registers, and spilled in float16


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    num_heads: int,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    norm_eps: float = 1e-5,
    eps: float = 1e-15,
) -> Tensor:
    """As `reference.linear_attention`, for head dims 16, 32, 64 and 128 and q, k and v of one shape and dtype."""
    out: Tensor = _forward(q, k, v, q_norm, k_norm, num_heads, norm_eps, eps)[0]
    return out


@torch.library.custom_op("sana_dit::linear_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    num_heads: int,
    norm_eps: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, tiles = q.contiguous(), k.contiguous(), v.contiguous(), tiles_of(q.device)
    q_scales, k_scales = (_scales(x, norm, norm_eps, tiles) for x, norm in ((q, q_norm), (k, k_norm)))
    parts = _parts(q, num_heads)
    state_launch(k, v, k_norm, k_scales, parts, tiles=tiles).run()
    states = _sum(parts)
    out = torch.empty_like(v)
    forward_launch(q, q_norm, q_scales, states, out, eps=eps, tiles=tiles).run()
    return out, states, q_scales, k_scales


@_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    num_heads: int,
    norm_eps: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dim = q.shape[2] // num_heads
    states = q.new_empty(q.shape[0], num_heads, dim + 1, dim, dtype=torch.float32)
    return v.new_empty(v.shape), states, _empty_scales(q, q_norm), _empty_scales(k, k_norm)


@torch.library.custom_op("sana_dit::linear_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    saved: list[Tensor],
    norm_eps: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad, q, k, v, tiles = grad.contiguous(), q.contiguous(), k.contiguous(), v.contiguous(), tiles_of(q.device)
    states, q_scales, k_scales = saved
    parts, factors = _parts(q, states.shape[1]), _factors(q, states.shape[1])
    # What a norm's gradient continues from stays in float32, as in plain PyTorch.
    q_grad = torch.empty_like(q, dtype=q.dtype if q_norm is None else torch.float32)
    k_grad = torch.empty_like(k, dtype=k.dtype if k_norm is None else torch.float32)
    v_grad = torch.empty_like(v)
    query_launch(grad, q, q_norm, q_scales, states, q_grad, factors, eps=eps, tiles=tiles).run()
    state_launch(q, grad, q_norm, q_scales, parts, factors=factors, tiles=tiles).run()
    key_launch(k, v, k_norm, k_scales, _sum(parts), k_grad, v_grad, tiles=tiles).run()
    q_grad, q_norm_grad = _through_norm(q_grad, q, q_norm, norm_eps)
    k_grad, k_norm_grad = _through_norm(k_grad, k, k_norm, norm_eps)
    return q_grad, k_grad, v_grad, q_norm_grad, k_norm_grad


@_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    saved: list[Tensor],
    norm_eps: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    q_sums, k_sums = (q.new_empty(0 if x is None else q.shape[2], dtype=torch.float32) for x in (q_norm, k_norm))
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), q_sums, k_sums


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, q_norm, k_norm, _, ctx.norm_eps, ctx.eps = inputs
    ctx.save_for_backward(q, k, v, q_norm, k_norm, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, q_norm, k_norm, *saved = ctx.saved_tensors
    *grads, q_norm_grad, k_norm_grad = _backward(grad, q, k, v, q_norm, k_norm, saved, ctx.norm_eps, ctx.eps)
    norms = (q_norm, q_norm_grad), (k_norm, k_norm_grad)
    return *grads, *(None if norm is None else x.to(norm.dtype) for norm, x in norms), None, None, None


_forward.register_autograd(_gradients, setup_context=_save)


def scales_launch(x: Tensor, scales: Tensor, *, eps: float, tiles: Tiles) -> Launch:
    """For contiguous tokens, and scales (B, N) in float32."""
    block = row_block(x.shape[2])
    arguments: dict[str, Any] = {"x": x, "scales": scales, "rows": scales.numel(), "width": x.shape[2], "eps": eps}
    constants = {"ROWS": tiles.rows, "BLOCK": block, "num_warps": tiles.row_warps(block)}
    return Launch(kernels.norm_scales, (ceil(scales.numel() / tiles.rows),), arguments, constants)


def state_launch(
    k: Tensor,
    v: Tensor,
    k_norm: Tensor | None,
    k_scales: Tensor,
    parts: Tensor,
    *,
    factors: Factors | None = None,
    tiles: Tiles,
) -> Launch:
    """For contiguous tokens, and parts (ceil(N / 256), B, heads, dim + 1, dim) in float32."""
    of_values, of_keys = factors or (None, None)
    arguments: dict[str, Any] = {"k": k, "v": v, "k_norm": k_norm, "k_scales": k_scales}
    arguments |= {"value_factors": of_values, "key_factors": of_keys, "parts": parts, "tokens": k.shape[1]}
    constants = _constants(k, parts, k_norm, tiles)
    constants |= {"FACTORED": factors is not None, "STEPS": _SUMMED_TOKENS // constants["TOKENS"]}
    return Launch(kernels.state_parts, (parts.shape[2], parts.shape[0], parts.shape[1]), arguments, constants)


def forward_launch(
    q: Tensor, q_norm: Tensor | None, q_scales: Tensor, states: Tensor, out: Tensor, *, eps: float, tiles: Tiles
) -> Launch:
    """Launch configuration for the same arguments plus states (B, heads, dim + 1, dim)."""
    arguments: dict[str, Any] = {"q": q, "q_norm": q_norm, "q_scales": q_scales, "states": states, "out": out}
    arguments |= {"tokens": q.shape[1], "eps": eps}
    constants = _constants(q, states, q_norm, tiles)
    return Launch(kernels.forward, _grid(q, states, constants), arguments, constants)


def query_launch(
    grad: Tensor,
    q: Tensor,
    q_norm: Tensor | None,
    q_scales: Tensor,
    states: Tensor,
    q_grad: Tensor,
    factors: Factors,
    *,
    eps: float,
    tiles: Tiles,
) -> Launch:
    """For the same; it writes the factors that `state_launch` takes for the gradient of the states."""
    arguments: dict[str, Any] = {
        "grad": grad,
        "q": q,
        "q_norm": q_norm,
        "q_scales": q_scales,
        "states": states,
        "q_grad": q_grad,
    }
    over_normalisers, normaliser_grads = factors
    arguments |= {"over_normalisers": over_normalisers, "normaliser_grads": normaliser_grads}
    arguments |= {"tokens": q.shape[1], "eps": eps}
    constants = _constants(q, states, q_norm, tiles)
    constants["COLUMNS"] = min(_SLICE, constants["DIM"])
    return Launch(kernels.backward_of_query, _grid(q, states, constants), arguments, constants)


def key_launch(
    k: Tensor,
    v: Tensor,
    k_norm: Tensor | None,
    k_scales: Tensor,
    state_grads: Tensor,
    k_grad: Tensor,
    v_grad: Tensor,
    *,
    tiles: Tiles,
) -> Launch:
    """Launch configuration for the same arguments plus gradients of the states (B, heads, dim + 1, dim)."""
    arguments: dict[str, Any] = {"k": k, "v": v, "k_norm": k_norm, "k_scales": k_scales, "state_grads": state_grads}
    arguments |= {"k_grad": k_grad, "v_grad": v_grad, "tokens": k.shape[1]}
    constants = _constants(k, state_grads, k_norm, tiles)
    wide = constants["DIM"] == 128 and constants["PRECISION"] == "ieee"
    constants["ROWS"] = _SHORT_SLICE if wide else min(_SLICE, constants["DIM"])
    return Launch(kernels.backward_of_key, _grid(k, state_grads, constants), arguments, constants)


def _constants(x: Tensor, states: Tensor, norm: Tensor | None, tiles: Tiles) -> dict[str, Any]:
    dim, precision = states.shape[-1], tiles.products[x.dtype]
    return {
        "NORMED": norm is not None,
        # Three products of wide heads would not fit in registers.
        "PRECISION": "ieee" if precision == "tf32x3" and dim > 32 else precision,
        "DIM": dim,
        "TOKENS": 64 if dim <= 32 and precision != "tf32x3" else 32,
        "num_warps": 4 if dim <= 32 else 256 // tiles.lanes,
        "num_stages": 2,
    }


def _grid(x: Tensor, states: Tensor, constants: dict[str, Any]) -> tuple[int, int, int]:
    return states.shape[1], ceil(x.shape[1] / constants["TOKENS"]), x.shape[0]


def _parts(q: Tensor, num_heads: int) -> Tensor:
    batch, tokens, width = q.shape
    dim = width // num_heads
    return q.new_empty(ceil(tokens / _SUMMED_TOKENS), batch, num_heads, dim + 1, dim, dtype=torch.float32)


def _factors(q: Tensor, num_heads: int) -> Factors:
    first, second = (q.new_empty(q.shape[0], num_heads, q.shape[1], dtype=torch.float32) for _ in range(2))
    return first, second


def _sum(parts: Tensor) -> Tensor:
    return parts.sum(0) if len(parts) > 1 else parts[0]


def _scales(x: Tensor, norm: Tensor | None, eps: float, tiles: Tiles) -> Tensor:
    scales = _empty_scales(x, norm)
    if norm is not None:
        scales_launch(x, scales, eps=eps, tiles=tiles).run()
    return scales


def _empty_scales(x: Tensor, norm: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[:2] if norm is not None else (0,), dtype=torch.float32)


def _through_norm(grad: Tensor, x: Tensor, norm: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    if norm is None:
        return grad, x.new_empty(0, dtype=torch.float32)
    return norm_gradients(grad, x, norm, eps)

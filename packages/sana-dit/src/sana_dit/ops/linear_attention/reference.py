"""ReLU linear attention in plain PyTorch (SANA, equation 2)."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F


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
    upcast: bool = True,
) -> Tensor:
    """Returns relu(q) (relu(k)^T v) / (relu(q) sum(relu(k)) + eps) per head, (B, N, D) in the dtype of v.

    Args:
        q: Queries (B, N, D), D = num_heads * head dim.
        k: Keys (B, N, D).
        v: Values (B, N, D).
        num_heads: Into how many heads D is split.
        q_norm: Weight (D,) of an RMS norm of q over all of D, before the split; None for no norm.
        k_norm: The same for k.
        norm_eps: Epsilon of the two norms.
        eps: Added to the normaliser.
        upcast: Whether to multiply in float32; otherwise in the dtype of v, except that float16 always is
            upcast (its range ends at 65504) and the division always is float32.
    """
    wide = torch.promote_types(v.dtype, torch.float32)
    dtype = wide if upcast or v.dtype == torch.float16 else v.dtype
    with _no_autocast(q.device.type):
        q, k = (F.relu(_normed(x, weight, norm_eps)).to(dtype) for x, weight in ((q, q_norm), (k, k_norm)))  # (B, N, D)
        q, k, values = (
            torch.unflatten(x, 2, (num_heads, -1)).transpose(1, 2) for x in (q, k, v.to(dtype))
        )  # (B, heads, N, D / heads)
        state = k.transpose(2, 3) @ values  # (B, heads, D / heads, D / heads)
        total = k.sum(2)[..., None]  # (B, heads, D / heads, 1)
        out = q @ torch.cat([state, total], dim=3)  # (B, heads, N, D / heads + 1)
        out = out[..., :-1].to(wide) / (out[..., -1:].to(wide) + eps)
    return out.transpose(1, 2).flatten(2).to(v.dtype)  # (B, N, D)


def _normed(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    if weight is None:
        return x
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.rms_norm(x.to(wide), weight.shape, weight.to(wide), eps)


def _no_autocast(device_type: str) -> AbstractContextManager[object]:
    # Autocast would take the float32 products back to 16 bits; the meta device has none.
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)

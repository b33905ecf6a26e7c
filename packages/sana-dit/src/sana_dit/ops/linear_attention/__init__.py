"""ReLU linear attention (SANA, equation 2): fused where Triton can, else plain PyTorch."""

from torch import Tensor

from sana_dit.ops.implementation import can_fuse
from sana_dit.ops.linear_attention import reference
from sana_dit.ops.tiles import MAX_ROW

__all__ = ["linear_attention"]

_HEAD_DIMS = (16, 32, 64, 128)
_OFFSETS = 2**31  # kernels count the elements of a sample in 32 bits


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
        upcast: Whether to multiply in float32; otherwise plain PyTorch multiplies in the dtype of v, except that
            float16 always is upcast (its range ends at 65504) and the division always is float32. The fused kernels
            sum in float32 either way.
    """
    weights = [weight for weight in (q_norm, k_norm) if weight is not None]
    fits = q.shape == k.shape == v.shape and q.dtype == k.dtype == v.dtype and q.dim() == 3
    fits = fits and q.shape[2] in [num_heads * size for size in _HEAD_DIMS] and q.shape[2] <= MAX_ROW
    fits = fits and q.shape[1] * q.shape[2] < _OFFSETS and all(weight.shape == q.shape[2:] for weight in weights)
    if fits and can_fuse(q, k, v, *weights):
        from sana_dit.ops.linear_attention import fused

        return fused.linear_attention(
            q, k, v, num_heads=num_heads, q_norm=q_norm, k_norm=k_norm, norm_eps=norm_eps, eps=eps
        )
    return reference.linear_attention(
        q, k, v, num_heads=num_heads, q_norm=q_norm, k_norm=k_norm, norm_eps=norm_eps, eps=eps, upcast=upcast
    )

"""Layer norm with adaptive shift and scale in plain PyTorch (adaLN, DiT section 3.2)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Returns layer_norm(x) * (1 + scale) + shift for tokens x (B, N, D); shift and scale (B, D) or (B, 1, D)."""
    # In bfloat16 1 + scale would be off by up to 2^-9, and by the same for every token.
    wide = torch.promote_types(x.dtype, torch.float32)
    shift, scale = (y.reshape(x.shape[0], 1, x.shape[2]).to(wide) for y in (shift, scale))
    normed = F.layer_norm(x, x.shape[-1:], eps=eps)  # (B, N, D)
    return torch.addcmul(shift, normed, 1 + scale).to(x.dtype)

"""RMS norm in plain PyTorch (Zhang and Sennrich 2019)."""

from torch import Tensor
from torch.nn import functional as F


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """Returns x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in float32, in the dtype of x."""
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)

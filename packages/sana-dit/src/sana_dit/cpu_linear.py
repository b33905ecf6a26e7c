"""Linear layers on a CPU: oneDNN's product in float32, where PyTorch would take MKL's."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_FEW_ROWS = 128  # below, MKL is as fast or faster


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns x @ weight.T + bias for x (..., K) and weight (M, K).

    On processors with AVX-512 oneDNN is a tenth faster (AMD Zen 4, 1024 x 512 x 512 to 256 x 2880 x 1152). It gives no
    gradients and is not for autocast, so it runs in inference only; and nothing that watches operators, such as
    `FlopCounterMode`, knows it.
    """
    inference = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if inference and x.device.type == "cpu" and _suits_onednn(x, weight):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return F.linear(x, weight, bias)


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.numel() >= _FEW_ROWS * x.shape[-1] > 0
        and not torch.is_autocast_enabled("cpu")
        and not is_in_torch_dispatch_mode()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and "AVX512" in torch.backends.cpu.get_cpu_capability()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )

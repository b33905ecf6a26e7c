"""Language models in 8 or 4 bits: LLM.int8() (arXiv:2208.07339) and NF4 (arXiv:2305.14314), by bitsandbytes."""

from typing import Any, Literal

import torch
from torch import nn

Quantization = Literal["int8", "nf4"]


def quantize_linears(module: nn.Module, kind: Quantization, *, device: torch.device) -> None:
    """Replaces every linear layer inside module by one of 8 or 4 bits, which is quantised as it moves to device.

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError("quantize needs bitsandbytes: pip install 'sana-judge[bnb]'") from error
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, _quantized(bitsandbytes.nn, child, kind))
    module.to(device)


def _quantized(layers: Any, linear: nn.Linear, kind: Quantization) -> nn.Module:
    weight, has_bias = linear.weight.data.cpu(), linear.bias is not None
    layer: nn.Linear
    with torch.device("meta"):  # the layer's own weights are thrown away
        if kind == "int8":
            layer = layers.Linear8bitLt(linear.in_features, linear.out_features, has_bias, has_fp16_weights=False)
        else:
            layer = layers.Linear4bit(
                linear.in_features, linear.out_features, has_bias, compute_dtype=weight.dtype, quant_type="nf4"
            )
    if kind == "int8":
        layer.weight = layers.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        layer.weight = layers.Params4bit(weight, requires_grad=False, quant_type="nf4")
    layer.bias = linear.bias
    return layer

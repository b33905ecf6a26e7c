"""Language models in 8 or 4 bits: LLM.int8() (arXiv:2208.07339) and NF4 (arXiv:2305.14314), by bitsandbytes."""

import logging
from typing import Any, Literal

import torch
from torch import nn

Quantization = Literal["int8", "nf4"]


def quantize_linears(module: nn.Module, kind: Quantization, *, device: torch.device) -> None:
    """Replaces the linear layers inside module by ones of 8 or 4 bits, one by one, and moves it to device.

    "nf4" (blocks of 64 or 32 weights) leaves layers alone whose sides are not multiples of 32.

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError("quantize needs bitsandbytes: pip install 'sana-judge[bnb]'") from error
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_not_about_casts)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and (kind == "int8" or _fits_blocks(child)):
                setattr(parent, name, _quantized(bitsandbytes.nn, child, kind).to(device))
    module.to(device)


def _is_not_about_casts(record: logging.LogRecord) -> bool:
    # bitsandbytes logs a line about the cast on every bfloat16 product.
    return "inputs will be cast" not in record.getMessage()


def _fits_blocks(linear: nn.Linear) -> bool:
    # bitsandbytes' kernel for CPUs packs 32 rows and wants whole blocks along them.
    return linear.in_features % 32 == linear.out_features % 32 == 0


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
        block = 32 if linear.in_features % 64 else 64
        layer.weight = layers.Params4bit(weight, requires_grad=False, quant_type="nf4", blocksize=block)
    layer.bias = linear.bias
    return layer

"""Linear layers in 8 or 4 bits: LLM.int8() (arXiv:2208.07339) and NF4 (arXiv:2305.14314), by bitsandbytes."""

import logging
from typing import Any, Literal, get_args

import torch
from torch import nn

from sana_dit.low_rank import AdaptedLinear

Quantization = Literal["int8", "nf4"]


def quantize_linears(module: nn.Module, kind: Quantization, *, device: torch.device | str | None = None) -> None:
    """Replaces the linear layers inside `module` by ones of 8 or 4 bits, for inference, and moves it to `device`.

    Of a transformer give `model.blocks`: what comes before and after them (patches, time, caption, the final layer) is
    small and sensitive. Tables, norms and convolutions stay as they are, and so does what a layer computes in. Give
    whole the text encoder of a `CaptionEncoder`.

    Args:
        module: Holds the layers, best still on the CPU: they are quantised one by one.
        kind: "int8" or "nf4". "nf4" (blocks of 64 or 32 weights) leaves layers alone whose sides are not multiples of
            32.
        device: None leaves the module where it is.

    Raises:
        ImportError: bitsandbytes is not installed.
        ValueError: There is no such kind, or a layer has LoRA additions.
    """
    if kind not in get_args(Quantization):
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(get_args(Quantization))}")
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError("quantize_linears needs bitsandbytes: pip install 'sana-dit[bnb]'") from error
    adapted = [name for name, child in module.named_modules() if isinstance(child, AdaptedLinear)]
    if adapted:
        raise ValueError(
            f"{len(adapted)} layers have LoRA additions, such as {adapted[0]}: quantise first, then load_lora"
        )
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_not_about_casts)
    quantized = bitsandbytes.nn.Linear8bitLt, bitsandbytes.nn.Linear4bit
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if not isinstance(child, nn.Linear) or isinstance(child, quantized):
                continue
            if kind == "int8" or _fits_blocks(child):
                where = child.weight.device if device is None else device
                setattr(parent, name, _quantized(bitsandbytes.nn, child, kind).to(where))
    if device is not None:
        module.to(device)


def check_unquantized(module: nn.Module) -> None:
    """Raises ValueError if the module holds quantised weights, which its files have no place for."""
    names = [name for name, weight in module.named_parameters() if not weight.is_floating_point()]
    if names:
        raise ValueError(f"{len(names)} weights are quantised, such as {names[0]}: save the model they were made of")


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
        block = (
            32 if linear.in_features % 64 else 64
        )  # 5600, behind the gate of 1.6B's Mix-FFN, is not a multiple of 64
        layer.weight = layers.Params4bit(weight, requires_grad=False, quant_type="nf4", blocksize=block)
    layer.bias = linear.bias
    return layer

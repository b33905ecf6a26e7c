"""Logits in float32 of 16-bit weights: near 20, float16 numbers are 0.016 apart and bfloat16 ones 0.125: images tie."""

import torch
from torch import Tensor

# Rows of the head converted to float32 at a time: 130 MB at width 2048.
_ROWS = 16384


def float32_logits(states: Tensor, head: Tensor) -> Tensor:
    """Returns the logits of words: states (..., D) and rows of the head (V, D), of any dtype -> (..., V), float32."""
    return torch.cat([states.float() @ rows.float().T for rows in torch.split(head, _ROWS)], dim=-1)

"""The two attentions of a block: linear over image tokens, softmax over the caption (SANA, section 2.2).

B batch, N image tokens, L caption tokens, D width.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sana_dit.conditioning import CaptionMemory
from sana_dit.config import SanaConfig
from sana_dit.layers import Linear
from sana_dit.ops import linear_attention, rms_norm

_FLOAT16_MAX = torch.finfo(torch.float16).max
_SELF_NORM_EPS = 1e-5


class LinearAttention(nn.Module):
    """ReLU linear self-attention; every image token sees every other at a cost linear in N."""

    def __init__(self, config: SanaConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.eps = config.linear_attention_eps
        self.upcast = config.linear_attention_upcast
        self.to_q = Linear(config.width, config.width, bias=False)
        self.to_k = Linear(config.width, config.width, bias=False)
        self.to_v = Linear(config.width, config.width, bias=False)
        self.to_out = Linear(config.width, config.width)
        self.norm_q = _norm_weight(config)
        self.norm_k = _norm_weight(config)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Puts every weight back to a first value."""
        _reset(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, N, D) to (B, N, D)."""
        x = linear_attention(
            self.to_q(x),
            self.to_k(x),
            self.to_v(x),
            num_heads=self.num_heads,
            q_norm=self.norm_q,
            k_norm=self.norm_k,
            norm_eps=_SELF_NORM_EPS,
            eps=self.eps,
            upcast=self.upcast,
        )  # (B, N, D)
        x = self.to_out(x)  # (B, N, D)
        # Without q and k norms SANA-1.0 leaves float16's range here, and an infinity would reach the residual.
        return x.clamp(-_FLOAT16_MAX, _FLOAT16_MAX) if x.dtype == torch.float16 else x


class CrossAttention(nn.Module):
    """Softmax attention from image tokens to caption tokens."""

    def __init__(self, config: SanaConfig):
        super().__init__()
        self.num_heads = config.num_cross_attention_heads
        self.norm_eps = config.cross_norm_eps
        self.to_q = Linear(config.width, config.width)
        self.to_k = Linear(config.width, config.width)
        self.to_v = Linear(config.width, config.width)
        self.to_out = Linear(config.width, config.width)
        self.norm_q = _norm_weight(config)
        self.norm_k = _norm_weight(config)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Puts every weight back to a first value."""
        _reset(self, generator)

    def forward(self, x: Tensor, caption: Tensor | CaptionMemory, bias: Tensor | None = None) -> Tensor:
        """Maps (B, N, D), with a caption (B, L, D) and an additive bias (B, 1, 1, L) or what `read` made of them."""
        memory = caption if isinstance(caption, CaptionMemory) else self.read(caption, bias)
        if memory.constants is None:
            return self._attend(x, memory)  # (B, N, D)
        constants = memory.constants.expand(-1, x.shape[1], -1)  # (F, N, D)
        if len(constants) == len(x):
            return constants
        return torch.cat([constants, self._attend(x[len(constants) :], memory)])  # (B, N, D)

    def read(self, caption: Tensor, bias: Tensor | None = None, *, folded: int = 0) -> CaptionMemory:
        """Returns what image tokens attend to: of captions (B, L, D), the first `folded` of which are one token long.

        The bias (B - folded, 1, 1, L) is that of the others.
        """
        rest = caption[folded:]  # (A, L, D)
        keys = self._normed(self.to_k(rest), self.norm_k)  # (A, L, D)
        constants = self.to_out(self.to_v(caption[:folded, :1])) if folded else None  # (F, 1, D)
        return CaptionMemory(self._heads(keys), self._heads(self.to_v(rest)), bias, constants)

    def _attend(self, x: Tensor, memory: CaptionMemory) -> Tensor:
        q = self._heads(self._normed(self.to_q(x), self.norm_q))  # (A, heads, N, D / heads)
        y = F.scaled_dot_product_attention(q, memory.keys, memory.values, attn_mask=memory.bias)
        return self.to_out(y.transpose(1, 2).flatten(2))  # (A, N, D)

    def _normed(self, x: Tensor, weight: nn.Parameter | None) -> Tensor:
        return x if weight is None else rms_norm(x, weight, eps=self.norm_eps)

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 2, (self.num_heads, -1)).transpose(1, 2)


def _norm_weight(config: SanaConfig) -> nn.Parameter | None:
    return nn.Parameter(torch.ones(config.width)) if config.qk_norm else None


def _reset(attention: LinearAttention | CrossAttention, generator: Generator | None) -> None:
    for linear in (attention.to_q, attention.to_k, attention.to_v, attention.to_out):
        linear.reset_parameters(generator)
    for norm in (attention.norm_q, attention.norm_k):
        if norm is not None:
            nn.init.ones_(norm)

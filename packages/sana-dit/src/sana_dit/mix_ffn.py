"""Mix-FFN: the feed-forward layer whose depthwise convolution stands in for positions (SANA, section 2.2)."""

from torch import Generator, Tensor, nn

from sana_dit.config import SanaConfig
from sana_dit.layers import ConvLinear, DepthwiseConv


class GLUMBConv(nn.Module):
    """Gated inverted bottleneck on tokens: 1x1 up, SiLU, 3x3 depthwise, SiLU gate, 1x1 down."""

    def __init__(self, config: SanaConfig):
        super().__init__()
        self.inverted = ConvLinear(config.width, 2 * config.mlp_width)
        self.depthwise = DepthwiseConv(2 * config.mlp_width)
        self.point = ConvLinear(config.mlp_width, config.width, bias=False)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Puts every weight back to a first value."""
        self.inverted.reset_parameters(generator)
        self.depthwise.reset_parameters(generator)
        self.point.reset_parameters(generator)

    def forward(self, x: Tensor, *, height: int, width: int) -> Tensor:
        """Maps (B, N, D) on a grid of height x width tokens to (B, N, D)."""
        x = self.inverted(x)  # (B, N, 2F)
        x = self.depthwise(x, height=height, width=width)  # (B, N, F)
        return self.point(x)  # (B, N, D)

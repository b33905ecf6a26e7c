"""How callers reach the fused operations."""

import torch

from sana_dit import ops


def test_torch_compile_takes_the_choice_of_kernels_without_graph_breaks(draw):
    shapes = (2, 6, 32), (2, 32), (32, 1, 3, 3), (32,)
    operands = [draw(*shape, dtype=torch.float32) for shape in shapes]

    def every(x, row, taps, weight):
        x = ops.gated_residual(x, ops.modulated_norm(x, row, row), row)
        x = ops.linear_attention(x, ops.rms_norm(x, weight, eps=1e-5), x, num_heads=2, q_norm=weight, k_norm=weight)
        return ops.gated_depthwise(x, taps, weight, height=2, width=3)

    expected = every(*operands)
    torch.compiler.reset()
    with ops.use("fused"):
        compiled = torch.compile(every, backend="aot_eager", fullgraph=True)(*operands)
    # Five operations in float32, each to within a few roundings of 2^-24.
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-5)

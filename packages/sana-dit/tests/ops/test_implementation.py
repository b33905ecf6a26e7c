"""The switch between implementations, and when kernels run."""

import subprocess
import sys

import pytest
import torch

from sana_dit import ops
from sana_dit.ops.implementation import can_fuse, selected


def test_a_name_holds_inside_the_block_only():
    assert selected() == "reference"
    with ops.use("fused"):
        assert selected() == "fused"
        with ops.use("reference"):
            assert selected() == "reference"
        assert selected() == "fused"
    assert selected() == "reference"


def test_an_error_inside_the_block_puts_the_switch_back():
    with pytest.raises(KeyError), ops.use("fused"):
        raise KeyError
    assert selected() == "reference"


def test_blocks_of_several_threads_end_in_any_order():
    first, second = ops.use("fused"), ops.use("fused")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert selected() == "fused"
    second.__exit__(None, None, None)
    assert selected() == "reference"


def test_an_unknown_implementation_is_named():
    with (
        pytest.raises(ValueError, match="implementation is 'fastest'; it must be 'fused' or 'reference'"),
        ops.use("fastest"),
    ):
        pass


def test_tensors_on_the_cpu_are_not_fused():
    with ops.use("fused"):
        assert not can_fuse(torch.ones(2))


@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_a_batch_of_nothing_gives_nothing(implementation):
    x, row = torch.ones(0, 6, 32, requires_grad=True), torch.ones(0, 32)
    taps, bias, weight = torch.ones(32, 1, 3, 3), torch.ones(32), torch.ones(32)
    with ops.use(implementation):
        results = (
            ops.gated_residual(x, x, row),
            ops.modulated_norm(x, row, row),
            ops.rms_norm(x, weight, eps=1e-5),
            ops.linear_attention(x, x, x, num_heads=2, q_norm=weight, k_norm=weight),
        )
        assert ops.gated_depthwise(x, taps, bias, height=2, width=3).shape == (0, 6, 16)
    assert {result.shape for result in results} == {x.shape}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_a_gpu_are_fused_when_told_to_but_in_float64():
    x = torch.ones(2, device="cuda")
    assert not can_fuse(x)
    with ops.use("fused"):
        assert can_fuse(x, x.bfloat16())
        assert not any(can_fuse(*operands) for operands in ((x, x.double()), (x, x.cpu()), (x[:0],)))


def test_importing_the_operations_imports_no_triton():
    loaded = "'triton' in sys.modules"
    code = f"import sys, torch; before = {loaded}; import sana_dit; assert before == ({loaded})"
    subprocess.run([sys.executable, "-c", code], check=True)

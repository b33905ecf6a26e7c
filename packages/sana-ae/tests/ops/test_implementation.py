"""The switch between implementations, and when kernels run."""

import subprocess
import sys

import pytest
import torch

from sana_ae import ops
from sana_ae.ops.implementation import can_fuse, selected


def test_a_name_holds_inside_the_block_only():
    with ops.use("fused"):
        with ops.use("reference"):
            assert selected() == "reference"
        assert selected() == "fused"
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
    expected = "implementation is 'fastest'; it must be 'fused' or 'reference'"
    with pytest.raises(ValueError, match=expected), ops.use("fastest"):
        pass


def test_tensors_on_the_cpu_are_not_fused():
    with ops.use("fused"):
        assert not can_fuse(torch.ones(2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_a_gpu_are_fused_when_told_to_but_in_float64():
    x = torch.ones(2, device="cuda")
    assert not can_fuse(x)
    with ops.use("fused"):
        assert can_fuse(x, x.bfloat16())
        assert not any(can_fuse(*operands) for operands in ((x, x.double()), (x, x.cpu()), (x[:0],)))


def test_importing_the_package_imports_no_triton():
    loaded = "'triton' in sys.modules"
    code = f"import sys, torch; before = {loaded}; import sana_ae; assert before == ({loaded})"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_is_exact():
    assert ops.__all__ == sorted(name for name, value in vars(ops).items() if callable(value))

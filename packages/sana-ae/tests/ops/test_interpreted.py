"""The kernels without a GPU: Triton's interpreter runs the tests of `fused/` on small sizes, in its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs triton: pip install 'sana-ae[triton]'")

HERE = Path(__file__).parent


def test_fused_operations_are_as_exact_as_plain_pytorch_in_the_interpreter():
    # Triton reads the variable when it is imported, so that one process cannot interpret and compile.
    command = [sys.executable, "-m", "pytest", str(HERE / "fused"), "-q", "-m", "not gpu", f"--confcutdir={HERE}"]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    print(run.stdout, run.stderr)
    assert run.returncode == 0
    assert "skipped" not in run.stdout

"""The Triton backend where there is no GPU: its kernels are interpreted, and refuse what only a GPU can run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="needs triton: pip install 'sana-train[triton]'")

from sana_train.came import passes_triton


def test_the_kernels_agree_with_the_reference_in_the_interpreter():
    # TRITON_INTERPRET counts when triton is imported, so for a whole process.
    tests = str(Path(__file__).with_name("test_came_kernels.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


def test_triton_is_needed_by_its_own_backend_alone():
    code = "import sys; sys.modules['triton'] = None; import sana_train; from sana_train.came import passes_triton"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: backend='triton' needs triton: pip install 'sana-train[triton]'" in run.stderr


def test_matrices_on_the_cpu_are_refused():
    with pytest.raises(ValueError, match="needs tensors on a GPU, these are on the cpu: use backend='eager'"):
        passes_triton.square_sums([torch.ones(2, 2)])

import os
import subprocess
import sys

import pytest
import torch

from sana_train.distributed import gathered, process_group, rank, share_of, summing_dtype, world_size

MEET_ALONE = """
from datetime import timedelta
from sana_train import process_group
with process_group(timeout=timedelta(seconds=2)):
    pass
"""


SHARE_A_TENSOR_WITH_GAPS = """
import torch
from sana_train.distributed import process_group, rank, share_first
with process_group():
    values = torch.arange(6.0).view(2, 3)[:, :2] * 1
    given = torch.arange(6.0).view(2, 3)[:, :2].mul_(1 + rank())
    share_first([given])
    assert torch.equal(given, values), given
"""


def test_one_process_needs_no_group():
    with process_group():
        assert (rank(), world_size(), gathered(["a"])) == (0, 1, ["a"])
    assert share_of(6, parts=3, process=0, processes=1) == range(6)


def test_sums_are_kept_in_float64_but_on_mps_which_has_none():
    assert summing_dtype(torch.device("cpu")) == summing_dtype(torch.device("cuda:1")) == torch.float64
    assert summing_dtype(torch.device("mps")) == torch.float32


@pytest.mark.parametrize(("batch_size", "parts"), [(0, 1), (6, 4)])
def test_a_batch_that_cannot_be_divided_is_named(batch_size, parts):
    with pytest.raises(ValueError, match=f"a batch of {batch_size} samples cannot be divided"):
        share_of(batch_size, parts, process=0, processes=1)


def test_a_rank_without_the_rest_is_named(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConnectionError, match=r"WORLD_SIZE.*start the processes with torchrun"), process_group():
        pass


def test_a_group_that_does_not_form_says_why():
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", MEET_ALONE], env=os.environ | place, capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert "process 1 of 2 did not meet the others at 127.0.0.1:1 within 0:00:02" in ended.stderr


def test_a_tensor_with_gaps_is_shared_as_it_is(tmp_path):
    (tmp_path / "share.py").write_text(SHARE_A_TENSOR_WITH_GAPS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run([*command, str(tmp_path / "share.py")], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of some processes saw: see processes/came_sharded.py."""
    script = Path(__file__).parent / "processes" / "came_sharded.py"
    command = [sys.executable, str(script), str(tmp_path_factory.mktemp("came"))]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


COUNTS = pytest.mark.parametrize("count", [1, 2, 3, 4])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@COUNTS
@DTYPES
def test_sharded_steps_are_those_of_one_process(found, dtype, count):
    for process in found[f"{dtype} {count}"]:
        # Sums of another order differ by 2^-24 or two. Codes and bfloat16 weights could round to a neighbour, yet one
        # in a million does.
        assert {name: far for name, far in process["off by"].items() if far > 2e-7} == {}


@COUNTS
@DTYPES
def test_a_checkpoint_of_two_processes_is_read_by_any_number_bit_for_bit(found, dtype, count):
    assert [process["not as saved"] for process in found[f"{dtype} {count}"]] == [[]] * count


@COUNTS
@DTYPES
def test_a_full_state_is_loaded_into_shards_by_all_or_by_the_first_process(found, dtype, count):
    assert [process["not as in a full state"] for process in found[f"{dtype} {count}"]] == [[]] * count


@COUNTS
def test_a_state_that_is_divided_otherwise_is_refused_before_a_step(found, count):
    for process in found[f"{torch.float32} {count}"]:
        for direction in ("whole", "sharded"):
            assert "set_optimizer_state_dict" in process[f"{direction} state is refused"]


@COUNTS
def test_flat_blocks_are_refused_only_where_they_would_be_cut(found, count):
    for process in found[f"{torch.float32} {count}"]:
        assert ("layout='flat' with a parameter (37, 67) sharded" in process["flat is refused"]) == (count > 1)

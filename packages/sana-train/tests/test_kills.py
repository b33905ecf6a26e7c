"""Four kills of training runs; `nox -s soak` makes the rest of them, see processes/soak_kills.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def runs():
    script = Path(__file__).parent / "processes" / "soak_kills.py"
    ended = subprocess.run([sys.executable, str(script), "--quick"], capture_output=True, text=True, check=False)
    assert ended.stdout, ended.stderr[-4000:]
    return json.loads(ended.stdout)["runs"]


def test_a_run_killed_twice_in_one_epoch_ends_in_the_same_bits(runs):
    alone = runs[0]
    assert [kill["phase"] for kill in alone["killed"]] == ["commit", "prune"]
    assert alone["differences"] == []


def test_a_run_of_two_processes_of_which_one_is_killed_ends_in_the_same_bits(runs):
    two = runs[1]
    assert (two["processes"], [kill["phase"] for kill in two["killed"]]) == (2, ["shard"])
    assert two["differences"] == []


def test_torchrun_starts_both_processes_again_when_one_is_killed(runs):
    elastic = runs[2]
    assert [kill["process"] for kill in elastic["killed"]] == [1]
    assert elastic["differences"] == []

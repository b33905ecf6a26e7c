"""A grown run in one process and in two (FSDP2 over gloo): see processes/grown_runs.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def losses(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


def test_two_processes_go_on_with_a_grown_run_as_one_does(tmp_path):
    script = Path(__file__).parents[1] / "processes" / "grown_runs.py"
    ended = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert len(losses(tmp_path / "two")) == 4
    # Sums over the batch round in another order: some 2^-24 of the loss a step, and CAME's first steps are large.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)

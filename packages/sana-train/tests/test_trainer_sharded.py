"""Runs of one and two processes (FSDP2 over gloo) against each other: see processes/sharded_runs.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sana_train.checkpointing.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    script = Path(__file__).parent / "processes" / "sharded_runs.py"
    ended = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return folder


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def losses(run_dir):
    return [line["loss"] for line in lines(run_dir) if "loss" in line and "skipped" not in line]


def newest_model(run_dir):
    return load_file(run_dir / "model" / "model.safetensors")


def test_two_processes_train_as_one(runs):
    assert len(losses(runs / "two")) == 5
    # Sums over the batch round in another order: some 2^-24 of the loss a step, and CAME's first steps are large.
    assert losses(runs / "two") == pytest.approx(losses(runs / "one"), rel=1e-6)


def test_validation_changes_no_step_after_it(runs):
    assert len([line for line in lines(runs / "validated") if "val/loss" in line]) == 6
    assert losses(runs / "validated") == losses(runs / "two")


def test_a_bad_sample_in_one_process_makes_all_skip_the_step(runs):
    (line,) = [line for line in lines(runs / "two") if "skipped" in line]
    assert (line["step"], line["skipped"], line["keys"]) == (5, "loss is nan", ["4-0", "4-1", "4-2", "4-3"])
    assert all(weight.isfinite().all() for weight in newest_model(runs / "two").values())


def test_a_resumed_run_of_two_ends_in_the_same_bits(runs):
    assert lines(runs / "stopped")[3]["lr"] == lines(runs / "two")[3]["lr"]
    assert losses(runs / "stopped") == losses(runs / "two")
    ends = newest_model(runs / "stopped")
    assert all(torch.equal(weight, ends[name]) for name, weight in newest_model(runs / "two").items())


def test_batch_norm_statistics_are_the_same_everywhere_and_after_resuming(runs):
    ends = json.loads((runs / "normed.json").read_text())
    first = ends["straight"][0]
    assert ends["straight"] == ends["again"] == ends["resumed"] == [first, first]
    for name in ("normed", "normed-stopped"):
        model = newest_model(runs / name)
        assert [*model["norm.running_mean"].tolist(), *model["norm.running_var"].tolist()] == first


def test_a_model_that_is_sharded_already_is_refused(runs):
    for message in json.loads((runs / "twice.json").read_text()):
        assert "the model is sharded already" in message


def test_copies_of_a_sharded_model_train_as_one_and_are_read_by_other_numbers(runs):
    assert losses(runs / "copies") == pytest.approx(losses(runs / "one"), rel=1e-6)
    assert losses(runs / "gathered") == pytest.approx(losses(runs / "one"), rel=1e-6)


def test_copies_that_do_not_come_out_even_are_refused(runs):
    for message in json.loads((runs / "odd.json").read_text()):
        assert "shard_over is 3 and there are 2 processes; it must divide" in message


def test_one_process_goes_on_from_two(runs):
    assert losses(runs / "moved")[:3] == losses(runs / "two")[:3]
    assert losses(runs / "moved")[3:] == pytest.approx(losses(runs / "two")[3:], rel=1e-6)
    assert Checkpoints(runs / "moved" / "checkpoints", keep=2).newest().step == 6


def test_sharded_bf16_keeps_weights_and_reductions_in_fp32(runs):
    # Products in bf16 round by 2^-9 each, and differently where a batch is divided.
    assert losses(runs / "bf16") == pytest.approx(losses(runs / "one-bf16"), rel=2**-8)
    assert {weight.dtype for weight in newest_model(runs / "bf16").values()} == {torch.float32}

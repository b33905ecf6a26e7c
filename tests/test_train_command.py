import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from sana.commands import app
from sana.commands.train import _amount
from sana_dit import SanaTransformer
from sana_dit.ops.implementation import selected


@pytest.fixture
def train(tiny_run):
    return lambda *arguments: CliRunner().invoke(app, ["train", str(tiny_run), "--device", "cpu", *arguments])


def losses(folder):
    return {line["step"]: line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}


def test_a_run_ends_in_a_model_that_loads(train, tiny_run):
    result = train("--no-progress")
    assert result.exit_code == 0, result.output
    assert result.stdout == "run/model\n"
    run = tiny_run.parent / "run"
    model = SanaTransformer.from_pretrained(run / "model")
    assert model.config.num_layers == 2
    assert list(losses(run)) == [1, 2, 3, 4]
    assert {path.name for path in run.glob("*.png")} == {"loss.png", "lr.png", "grad_norm.png"}


def test_a_stopped_run_is_resumed_to_the_same_bits(train, tiny_run):
    straight = train("--no-progress", "--set", "train.run_dir=straight")
    first = train("--no-progress", "--set", "train.checkpoint_every=2")
    assert straight.exit_code == first.exit_code == 0, straight.output + first.output
    run = tiny_run.parent / "run"
    newest = run / "checkpoints" / "step-00000004"
    newest.rename(newest.with_name("lost"))  # as if the run had been killed between its two checkpoints
    again = train("--no-progress", "--set", "train.checkpoint_every=2", "--resume")
    assert again.exit_code == 0, again.output
    assert losses(run) == losses(tiny_run.parent / "straight")
    models = [
        SanaTransformer.from_pretrained(tiny_run.parent / name / "model").state_dict() for name in ("run", "straight")
    ]
    assert all(torch.equal(weight, models[1][name]) for name, weight in models[0].items())


def test_a_run_is_not_resumed_with_another_objective_or_other_data(train):
    assert train("--no-progress").exit_code == 0
    again = train("--no-progress", "--resume", "--set", "objective.shift=6.0", "--set", "data.seed=1")
    assert again.exit_code == 2
    assert "was started otherwise (objective.shift 3.0 -> 6.0, data.seed 0 -> 1)" in again.output


def test_a_run_trains_with_the_kernels_it_names(train, monkeypatch):
    seen = []
    forward = SanaTransformer.forward
    monkeypatch.setattr(SanaTransformer, "forward", lambda *args: seen.append(selected()) or forward(*args))
    assert train("--no-progress", "--set", "model.kernels=fused").exit_code == 0
    assert set(seen) == {"fused"}
    assert selected() == "reference"


def test_resume_starts_a_run_that_is_not_there(train):
    assert train("--no-progress", "--resume").exit_code == 0


def test_a_sigterm_saves_and_says_how_to_go_on(tiny_run):
    command = [sys.executable, "-c", "from sana.commands import app; app()", "train", str(tiny_run), "--device", "cpu"]
    long = ("--set", "train.steps=100000", "--set", "train.log_every=1000")
    process = subprocess.Popen(
        [*command, *long], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tiny_run.parent
    )
    for line in iter(process.stderr.readline, ""):
        if "step" in line:
            break
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    newest = max((tiny_run.parent / "run" / "checkpoints").glob("step-*"))
    assert out == f"stopped at step {int(newest.name.removeprefix('step-')):,}: resume with --resume\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "train.stepz=3"], "error: [train] has no stepz, perhaps steps was meant; it has run_dir, steps"),
        (["--set", "trian.steps=3"], "has a section [trian]; it must be one of [train]"),
        (["--set", "train.steps=many"], "error: [train] steps is 'many'; it must be a whole number"),
        (["--set", "steps=3"], "error: --set is 'steps=3'; give section.key=value"),
        (["--set", "train.step_in_backward=true", "--set", "train.accumulate=2"], "step_in_backward with accumulate 2"),
        (["--set", "train.step_in_backward=true"], "step_in_backward with accumulate 1 and grad_clip 1.0"),
        (["--set", "data.shards=nowhere"], "error: there is no folder nowhere"),
        (["--set", "data.shards=empty"], "error: empty holds no shard (*.safetensors)"),
        (["--set", "data.batch_size=9"], "error: batch_size is 9, but data has at most 8 samples of one size"),
        (["--set", "train.accumulate=3"], "error: [data] batch_size 4 cannot be divided among 1 processes with 3"),
        (["--set", "optimizer.lr=-1.0"], "lr is -1.0"),
        (["--device", "nowhere"], "error: device 'nowhere' cannot be used"),
        (["--allow-changes"], "error: --allow-changes is given without --resume"),
        (["--processes", "2"], "error: --processes and --json go with --plan"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(train, tiny_run, arguments, message):
    (tiny_run.parent / "empty").mkdir()
    before = sorted(os.listdir(tiny_run.parent))
    result = train("--no-progress", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(os.listdir(tiny_run.parent)) == before


def test_verify_reads_every_shard_before_it_trains(train, tiny_run):
    shard = tiny_run.parent / "data" / "0.safetensors"
    assert train("--no-progress", "--verify").exit_code == 0
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    result = train("--no-progress", "--verify", "--set", "train.run_dir=other")
    assert result.exit_code == 2
    assert "0.safetensors has changed since it was written" in result.stderr
    assert not (tiny_run.parent / "other").exists()


def test_a_missing_file_is_said(tmp_path):
    result = CliRunner().invoke(app, ["train", str(tmp_path / "nowhere.toml")])
    assert result.exit_code == 2
    assert "error: there is no run file" in result.stderr


def test_a_run_is_not_started_over_another(train):
    assert train("--no-progress").exit_code == 0
    result = train("--no-progress")
    assert result.exit_code == 2
    assert result.stderr == "error: run holds a run: add --resume to continue it, or give another train.run_dir\n"


def test_changed_settings_are_shown_and_refused_until_allowed(train):
    assert train("--no-progress").exit_code == 0
    longer = ("--no-progress", "--resume", "--set", "train.steps=6")
    result = train(*longer)
    assert result.exit_code == 2
    assert "steps 4 -> 6): use the same settings, or add --allow-changes\n" in result.stderr
    assert train(*longer, "--allow-changes").exit_code == 0


def test_a_run_in_use_is_said(train, tiny_run):
    from sana_train.run_lock import run_lock

    with run_lock(tiny_run.parent / "run"):
        result = train("--no-progress")
    assert result.exit_code == 2
    assert f"in use by process {os.getpid()}" in result.stderr


def test_a_plan_is_printed_and_nothing_started(train, tiny_run):
    before = sorted(os.listdir(tiny_run.parent))
    result = train("--plan", "--set", "train.warmup_steps=0")
    assert result.exit_code == 0, result.output
    for text in (
        "memory per GPU",
        "optimizer state",
        "stays at",
        "parameters",
        "MFLOP an image and step",
        "8 samples (shards: 1",
    ):
        assert text in result.stdout
    assert "warning: CAME's first step" in result.stderr
    assert sorted(os.listdir(tiny_run.parent)) == before


@pytest.mark.parametrize(
    ("count", "said"),
    [(31, "0.03 kB"), (999_000, "999.00 kB"), (1_234_567, "1.23 MB"), (10**9, "1.00 GB"), (2 * 10**12, "2,000.00 GB")],
)
def test_a_plan_names_amounts_in_the_largest_unit_that_fits(count, said):
    assert _amount(count, "GB", "MB", "kB") == said


def test_a_plan_is_printed_as_json_for_scripts(train):
    result = train("--plan", "--json", "--processes", "2")
    plan = json.loads(result.stdout)
    assert plan["memory_per_gpu"] == sum(plan["memory"].values())
    assert plan["lines"]["step"].startswith("4 samples = 2 x 1 x 2")

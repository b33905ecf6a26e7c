import json

import pytest
import torch
from safetensors.torch import load_file

from sana_train import CheckpointError, TrainConfig, Trainer


def logged(trainer, name):
    return [json.loads(line)[name] for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]


def test_loss_falls(make_trainer):
    trainer = make_trainer(steps=150)
    trainer.fit()
    losses = logged(trainer, "loss")
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])


def test_a_stopped_run_ends_in_the_same_bits(make_trainer, parts, tmp_path):
    straight = make_trainer(run_dir=str(tmp_path / "straight"))
    straight.fit()
    stopped = make_trainer(run_dir=str(tmp_path / "stopped"), checkpoint_every=2)
    for _ in range(3):
        stopped.train_step(stopped.batches(stopped.step))
        if stopped.step == 2:
            stopped.save()  # then one more step that the kill throws away
    resumed = Trainer.resume(tmp_path / "stopped", *parts(stopped.config))
    assert resumed.step == 2
    resumed.fit()
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    for name, average in straight.ema.averages.items():
        assert torch.equal(average, resumed.ema.averages[name]), name


def test_metrics_of_repeated_steps_appear_once(make_trainer, parts):
    trainer = make_trainer(checkpoint_every=3)
    trainer.fit()
    (trainer.run_dir / "checkpoints" / "step-00000006.pt").unlink()
    Trainer.resume(trainer.run_dir, *parts(trainer.config)).fit()
    assert logged(trainer, "step") == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_the_model_folder_holds_the_average(make_trainer):
    trainer = make_trainer()
    trainer.fit()
    saved = load_file(trainer.run_dir / "model" / "model.safetensors")
    for name, average in trainer.ema.averages.items():
        assert torch.equal(saved[name], average), name


def test_bf16_keeps_weights_in_fp32(make_trainer):
    trainer = make_trainer(precision="bf16", steps=1)
    trainer.fit()
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(make_trainer):
    trainer = make_trainer()
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.objective = lambda model, batch, draws: model.conv.weight.sum() * float("nan")
    with pytest.raises(FloatingPointError, match=r"step 0: loss nan.*0-0"):
        trainer.train_step(trainer.batches(0))
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())


def test_resuming_with_another_configuration_is_refused(make_trainer, parts):
    trainer = make_trainer()
    trainer.fit()
    other = TrainConfig(run_dir=str(trainer.run_dir), steps=9, log_every=1, progress=False)
    with pytest.raises(CheckpointError, match="steps 6 -> 9"):
        Trainer.resume(trainer.run_dir, *parts(other))


def test_resuming_nothing_says_how_to_start(parts, tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        Trainer.resume(tmp_path, *parts(TrainConfig(run_dir=str(tmp_path), steps=1)))


def test_a_model_that_a_kill_left_behind_is_made_good(make_trainer, parts):
    trainer = make_trainer()
    trainer.fit()
    model = trainer.run_dir / "model"
    model.rename(trainer.run_dir / "model.old")  # as a kill between the two renames leaves it
    Trainer.resume(trainer.run_dir, *parts(trainer.config)).fit()
    saved = load_file(model / "model.safetensors")
    assert all(torch.equal(saved[name], average) for name, average in trainer.ema.averages.items())
    assert not (trainer.run_dir / "model.old").exists()


def test_a_new_run_does_not_write_over_an_old_one(make_trainer):
    make_trainer().fit()
    with pytest.raises(CheckpointError, match="holds a run: go on with"):
        make_trainer().fit()


def test_resuming_with_an_optimizer_in_use_keeps_the_schedule(make_trainer, parts):
    trainer = make_trainer(steps=6, warmup_steps=6, checkpoint_every=2)
    for _ in range(4):
        trainer.train_step(trainer.batches(trainer.step))
    trainer.save()
    model, objective, _, batches, config = parts(trainer.config)
    used = torch.optim.AdamW(model.parameters(), lr=123.0)
    resumed = Trainer.resume(trainer.run_dir, model, objective, used, batches, config)
    assert resumed.train_step(batches(4))["lr"] == pytest.approx(1e-2 * 5 / 6)


def test_gradients_are_clipped_and_the_schedule_is_applied(make_trainer):
    trainer = make_trainer(grad_clip=1e-3, warmup_steps=4)
    metrics = trainer.train_step(trainer.batches(0))
    assert metrics["lr"] == pytest.approx(1e-2 / 4)
    assert metrics["grad_norm"] > 1e-3  # as it was before clipping
    clipped = torch.stack([weight.grad.norm() for weight in trainer.model.parameters()]).norm()
    assert clipped.item() == pytest.approx(1e-3, rel=1e-4)


def test_bf16_runs_the_objective_under_autocast(make_trainer):
    trainer = make_trainer(precision="bf16")
    seen = []
    objective = trainer.objective
    trainer.objective = lambda *arguments: seen.append(torch.is_autocast_enabled("cpu")) or objective(*arguments)
    trainer.train_step(trainer.batches(0))
    assert seen == [True]


def test_dropout_in_the_model_resumes_to_the_same_bits(make_trainer, parts, tmp_path):
    def noisy(model, batch, draws):
        return torch.nn.functional.dropout(model.conv.weight, 0.5).square().sum()

    finals = []
    for name, stop in (("straight", 6), ("stopped", 3)):
        trainer = make_trainer(run_dir=str(tmp_path / name), checkpoint_every=3)
        trainer.objective = noisy
        while trainer.step < stop:
            trainer.train_step(trainer.batches(trainer.step))
        if stop == 3:
            trainer.save()
            torch.rand(7)  # whatever else drew from the global generator meanwhile
            trainer = Trainer.resume(tmp_path / name, *parts(trainer.config))
            trainer.objective = noisy
            trainer.fit()
        finals.append(trainer.model.conv.weight.detach().clone())
    assert torch.equal(*finals)


def test_a_command_starts_a_run_once_and_resumes_it_afterwards(make_trainer, parts, tmp_path):
    config = TrainConfig(run_dir=str(tmp_path / "run"), steps=4, checkpoint_every=2, progress=False)
    assert Trainer.start_or_resume(*parts(config)).step == 0
    make_trainer(steps=4, checkpoint_every=2).fit()
    assert Trainer.start_or_resume(*parts(config)).step == 4


def test_workers_change_no_bit(make_trainer, tmp_path):
    alone = make_trainer(run_dir=str(tmp_path / "alone"))
    helped = make_trainer(run_dir=str(tmp_path / "helped"), workers=1)
    alone.fit()
    helped.fit()
    for name, weight in alone.model.state_dict().items():
        assert torch.equal(weight, helped.model.state_dict()[name]), name

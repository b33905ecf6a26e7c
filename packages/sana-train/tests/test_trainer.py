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

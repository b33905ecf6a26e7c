import dataclasses
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from sana_train import CAME8bit, CheckpointError, FlowMatching, TrainConfig, Trainer
from sana_train.metrics import read_metrics


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
        stopped.train_step()
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
    shutil.rmtree(trainer.run_dir / "checkpoints" / "step-00000006")
    Trainer.resume(trainer.run_dir, *parts(trainer.config)).fit()
    assert logged(trainer, "step") == [1, 2, 3, 4, 5, 6]


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


def test_a_step_that_is_not_finite_is_skipped_and_its_keys_are_logged(make_trainer):
    flow = FlowMatching()

    def broken(model, batch, draws):
        return flow(model, batch, draws) * (float("nan") if draws.step == 2 else 1)

    trainer = make_trainer(objective=broken)
    for _ in range(2):
        trainer.train_step()
    before = {name: tensor.clone() for name, tensor in trainer._state.tensors().items()}
    assert trainer.train_step().skipped == "loss is nan"
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer._state.tensors().items())
    trainer.step = 0
    trainer.fit()
    (line,) = [line for line in read_metrics(trainer.run_dir) if "skipped" in line]
    assert (line["step"], line["keys"]) == (3, ["2-0", "2-1", "2-2"])


def test_steps_that_keep_failing_are_passed_over_after_a_return(make_trainer, caplog):
    flow, seen = FlowMatching(), []

    def broken(model, batch, draws):
        seen.append(draws.step)
        return flow(model, batch, draws) * (float("inf") if draws.step in (3, 4) else 1)

    trainer = make_trainer(objective=broken, max_skips=2, checkpoint_every=2)
    assert trainer.fit()
    assert seen == [0, 1, 2, 3, 4, 2, 5]
    assert "steps 3 to 4 failed" in caplog.text
    events = [line for line in read_metrics(trainer.run_dir) if "returned_to" in line]
    assert [(event["returned_to"], list(event["passed_over"])) for event in events] == [(2, ["3", "4"])]


def test_a_run_that_cannot_be_saved_by_returning_ends(make_trainer):
    trainer = make_trainer(objective=lambda model, batch, draws: model.conv.weight.sum() * float("nan"), max_skips=2)
    with pytest.raises(FloatingPointError, match=r"steps 0 to 1 failed.*no checkpoint yet; samples \['0-0'"):
        trainer.fit()


def test_micro_batches_make_the_same_step(make_trainer, tmp_path):
    whole = make_trainer(run_dir=str(tmp_path / "whole"))
    divided = make_trainer(run_dir=str(tmp_path / "divided"), accumulate=3)
    for _ in range(3):
        once, thrice = whole.train_step(), divided.train_step()
        assert thrice.loss == pytest.approx(once.loss, rel=1e-6)  # a mean of means, in fp32
        assert thrice.grad_norm == pytest.approx(once.grad_norm, rel=1e-5)


@pytest.mark.parametrize(("settings", "seen"), [({}, 16), ({"compile": True}, 40)])
def test_a_model_is_given_captions_without_padding_unless_it_is_compiled(make_trainer, settings, seen):
    def padded(step):
        mask = (torch.arange(40) < 5).float().expand(3, -1)
        return {"latents": torch.zeros(3, 4, 2, 2), "caption": torch.ones(3, 40, 6), "caption_mask": mask, "key": "abc"}

    trainer, shapes = make_trainer(batches=padded, **settings), []
    trainer.model.register_forward_pre_hook(lambda model, args: shapes.append((args[2].shape, args[3].shape)))
    trainer.train_step()
    assert shapes == [((3, seen, 6), (3, seen))]


def test_a_batch_that_cannot_be_divided_is_named(make_trainer):
    with pytest.raises(ValueError, match="a batch of 3 samples cannot be divided among 1 processes with 2"):
        make_trainer(accumulate=2).train_step()


def test_a_run_that_was_asked_to_stop_saves_and_goes_on_to_the_same_bits(make_trainer, parts, tmp_path):
    flow = FlowMatching()

    def stopping(model, batch, draws):
        if draws.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return flow(model, batch, draws)

    straight = make_trainer(run_dir=str(tmp_path / "straight"))
    assert straight.fit()
    stopped = make_trainer(run_dir=str(tmp_path / "stopped"), objective=stopping)
    assert not stopped.fit()
    assert stopped.step == 4
    resumed = Trainer.resume(tmp_path / "stopped", *parts(stopped.config))
    assert resumed.fit()
    ends = zip(straight._state.tensors().items(), resumed._state.tensors().items(), strict=True)
    assert all(one == other and torch.equal(a, b) for (one, a), (other, b) in ends)


def test_a_run_can_be_made_longer_when_told_so(make_trainer, parts):
    trainer = make_trainer()
    trainer.fit()
    longer = dataclasses.replace(trainer.config, steps=9)
    resumed = Trainer.resume(trainer.run_dir, *parts(longer), allow_changes=True)
    assert resumed.step == 6
    assert resumed.fit()
    assert logged(resumed, "step") == list(range(1, 10))


def test_another_optimizer_setting_is_a_change(make_trainer, parts):
    trainer = make_trainer()
    trainer.fit()
    model = parts(trainer.config)[0]
    slower = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(CheckpointError, match=r"lr 0.01 -> 0.001"):
        Trainer.resume(trainer.run_dir, *parts(trainer.config, model=model, optimizer=slower))


def test_other_settings_that_were_given_must_stay(make_trainer, parts):
    trainer = make_trainer(hooks={"settings": {"data": "first", "shift": 3.0}})
    trainer.fit()
    with pytest.raises(CheckpointError, match=r"otherwise \(shift 3.0 -> 6.0\)"):
        Trainer.resume(trainer.run_dir, *parts(trainer.config), settings={"data": "first", "shift": 6.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"ema_decay": None}, "cannot gain or lose its weight average"), ({"steps": 3}, "is at step 6 and steps is 3")],
)
def test_some_changes_are_refused_even_when_allowed(make_trainer, parts, changes, message):
    trainer = make_trainer()
    trainer.fit()
    other = dataclasses.replace(trainer.config, **changes)
    with pytest.raises(CheckpointError, match=message):
        Trainer.resume(trainer.run_dir, *parts(other), allow_changes=True)


@pytest.mark.parametrize("in_backward", [False, True])
def test_a_skipped_step_leaves_buffers_alone(make_trainer, in_backward):
    class Normed(torch.nn.Sequential):
        def __init__(self):
            super().__init__(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))

    def poisoned(model, batch, draws):
        return model(draws.normal((3, 2), "x") * (float("nan") if draws.step == 1 else 1)).square().mean()

    model = Normed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"step_in_backward": in_backward, "grad_clip": None}
    trainer = make_trainer(model=model, objective=poisoned, optimizer=optimizer, **settings)
    trainer.train_step()
    before = model[0].running_mean.clone()
    assert trainer.train_step().skipped == "loss is nan"
    assert torch.equal(model[0].running_mean, before)


def test_validation_and_samples_see_the_average(make_trainer):
    seen = []

    def validation(model):
        seen.append(model.conv.weight.detach().clone())
        return {"val/loss": float(model.training)}

    def sample(model, folder):
        folder.mkdir(parents=True)

    trainer = make_trainer(hooks={"validation": validation, "sample": sample}, validate_every=4, sample_every=3)
    trainer.fit()
    assert torch.equal(seen[-1], trainer.ema.averages["conv.weight"])
    validated = [line for line in read_metrics(trainer.run_dir) if "val/loss" in line]
    assert [(line["step"], line["val/loss"]) for line in validated] == [(4, 0.0), (6, 0.0)]
    assert sorted(path.name for path in (trainer.run_dir / "samples").iterdir()) == ["step-00000003", "step-00000006"]


def test_validation_leaves_every_module_in_the_mode_it_was_in(make_trainer):
    flow = FlowMatching()

    def freezing(model, batch, draws):
        model.conv.eval()
        return flow(model, batch, draws)

    trainer = make_trainer(
        objective=freezing, steps=1, hooks={"validation": lambda model: {"val/loss": 0.0}}, validate_every=1
    )
    trainer.fit()
    assert (trainer.model.training, trainer.model.conv.training) == (True, False)


@pytest.mark.parametrize(("hook", "every"), [("validation", "validate_every"), ("sample", "sample_every")])
def test_what_would_never_be_called_is_refused(make_trainer, hook, every):
    with pytest.raises(ValueError, match=f"{hook} is given and {every} is 0: they go together"):
        make_trainer(hooks={hook: lambda *_: {}})
    with pytest.raises(ValueError, match=f"{hook} is missing and {every} is 2: they go together"):
        make_trainer(**{every: 2})


def test_without_an_average_the_model_folder_holds_the_weights(make_trainer):
    trainer = make_trainer(ema_decay=None)
    trainer.fit()
    saved = load_file(trainer.run_dir / "model" / "model.safetensors")
    assert all(torch.equal(saved[name], weight) for name, weight in trainer.model.state_dict().items())


def test_fresh_came_without_warm_up_is_warned_of(make_trainer, parts, caplog):
    model = parts(TrainConfig(run_dir="", steps=1))[0]
    make_trainer(model=model, optimizer=CAME8bit(model.parameters(), 1e-4), steps=1).fit()
    assert "11 times the learning rate" in caplog.text


def test_an_optimizer_of_another_model_is_refused(make_trainer, parts):
    other = parts(TrainConfig(run_dir="", steps=1))[2]
    with pytest.raises(ValueError, match="6 tensors that are not parameters of the model"):
        make_trainer(optimizer=other)


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
    for write in (Trainer.fit, Trainer.save):
        with pytest.raises(CheckpointError, match="holds a run: go on with"):
            write(make_trainer())
    assert make_trainer()._checkpoints.newest().step == 6


def test_a_late_start_goes_on_where_another_process_has_ended(make_trainer, parts, caplog):
    first = make_trainer(checkpoint_every=2, keep_checkpoints=1)
    for _ in range(2):
        first.train_step()
    first.save()
    late = Trainer.resume(first.run_dir, *parts(first.config))
    first.fit()
    ended = load_file(first.run_dir / "model" / "model.safetensors")
    assert late.step == 2
    late.train_step()
    with pytest.raises(CheckpointError, match=r"another process has trained .* to step 6 since it was read at step 2"):
        late.save()
    assert late.fit()
    assert "another process has trained" in caplog.text
    assert logged(late, "step") == list(range(3, 7))  # what the first one logged; its first two steps were not fit's
    assert late._checkpoints.newest().step == 6
    now = load_file(first.run_dir / "model" / "model.safetensors")
    assert all(torch.equal(weight, ended[name]) for name, weight in now.items())


def test_a_late_start_that_asks_for_fewer_steps_leaves_the_run_alone(make_trainer, parts):
    first = make_trainer(steps=4)
    first.fit()
    late = Trainer.resume(first.run_dir, *parts(first.config))
    longer = dataclasses.replace(first.config, steps=6)
    Trainer.resume(first.run_dir, *parts(longer), allow_changes=True).fit()
    with pytest.raises(CheckpointError, match="steps 6 -> 4"):
        late.fit()
    assert late._checkpoints.newest().step == 6


def test_a_run_saved_before_its_first_step_goes_on(make_trainer, parts):
    trainer = make_trainer()
    trainer.save()
    assert Trainer.resume(trainer.run_dir, *parts(trainer.config)).fit()
    again = make_trainer(run_dir=str(trainer.run_dir) + "-2")
    again.save()
    assert again.fit()


def test_the_schedule_goes_on_after_resuming(make_trainer, parts):
    trainer = make_trainer(steps=6, warmup_steps=6)
    for _ in range(4):
        trainer.train_step()
    trainer.save()
    resumed = Trainer.resume(trainer.run_dir, *parts(trainer.config))
    assert resumed.train_step().lr == pytest.approx(1e-2 * 5 / 6)


def test_gradients_are_clipped_and_the_schedule_is_applied(make_trainer, parts):
    model = parts(TrainConfig(run_dir="", steps=1))[0]
    before = [weight.detach().clone() for weight in model.parameters()]
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    result = make_trainer(model=model, optimizer=sgd, grad_clip=1e-3, warmup_steps=4).train_step()
    assert result.lr == pytest.approx(1 / 4)
    assert result.grad_norm > 1e-3  # as it was before clipping
    moved = torch.stack([(weight - old).norm() for weight, old in zip(model.parameters(), before, strict=True)]).norm()
    # Weights near 1 round each difference by up to 6e-8, against entries of about 1e-3 / 4 / sqrt(200).
    assert moved.item() == pytest.approx(1e-3 / 4, rel=1e-2)


def test_the_gradient_norm_of_bf16_weights_is_summed_in_fp32(make_trainer):
    generator = torch.Generator().manual_seed(0)
    wanted = [torch.randn(300, 300, generator=generator).bfloat16().float() for _ in range(3)]
    model = torch.nn.ParameterList(torch.zeros(300, 300, dtype=torch.bfloat16) for _ in wanted)

    def linear(model, batch, draws):
        return sum((weight.float() * gradient).sum() for weight, gradient in zip(model, wanted, strict=True))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = make_trainer(model=model, objective=linear, optimizer=optimizer, ema_decay=None).train_step()
    norm = sum(gradient.double().square().sum() for gradient in wanted).sqrt().item()
    assert result.grad_norm == pytest.approx(norm, rel=1e-5)  # in bf16 it could be off by 2^-8


def test_bf16_runs_the_objective_under_autocast(make_trainer):
    flow, seen = FlowMatching(), []

    def watching(*arguments):
        seen.append(torch.is_autocast_enabled("cpu"))
        return flow(*arguments)

    make_trainer(precision="bf16", objective=watching).train_step()
    assert seen == [True]


def test_dropout_in_the_model_resumes_to_the_same_bits(make_trainer, parts, tmp_path):
    def noisy(model, batch, draws):
        return torch.nn.functional.dropout(model.conv.weight, 0.5).square().sum()

    finals = []
    for name, stop in (("straight", 6), ("stopped", 3)):
        trainer = make_trainer(run_dir=str(tmp_path / name), objective=noisy)
        while trainer.step < stop:
            trainer.train_step()
        if stop == 3:
            trainer.save()
            torch.rand(7)  # whatever else drew from the global generator meanwhile
            trainer = Trainer.resume(tmp_path / name, *parts(trainer.config, objective=noisy))
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

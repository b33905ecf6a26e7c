import pytest
import torch
from torch import nn

from sana_train import CAME8bit, TrainConfig
from sana_train.growth.schedule import FROZEN
from sana_train.step_in_backward import StepInBackward


def wide_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 512), nn.SiLU(), nn.Linear(512, 64)).bfloat16()


def wide_loss(model, batch, draws):
    return model(draws.normal((3, 64), "input").bfloat16()).float().square().mean()


def test_it_equals_the_ordinary_step_with_bf16_weights_and_recomputed_activations(make_trainer, tmp_path):
    ends = []
    for in_backward in (False, True):
        model = wide_model()
        trainer = make_trainer(
            run_dir=str(tmp_path / str(in_backward)),
            model=model,
            objective=wide_loss,
            optimizer=CAME8bit(model.parameters(), 1e-3, stochastic_rounding=True),
            grad_clip=None,
            step_in_backward=in_backward,
            activation_checkpointing=in_backward,
        )
        for _ in range(5):
            assert trainer.train_step().skipped is None
        ends.append(trainer._state.tensors())
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_gradients_never_exist_together():
    model, alive = wide_model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    in_backward = StepInBackward(optimizer)
    optimizer.register_step_post_hook(
        lambda *_: alive.append(sum(parameter.grad is not None for parameter in model.parameters()))
    )
    with in_backward.updating():
        model(torch.ones(2, 64, dtype=torch.bfloat16)).float().sum().backward()
    assert alive == [1, 1, 1, 1]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_gradient_that_is_not_finite_leaves_its_tensor_alone():
    model = nn.ParameterList([torch.ones(2), torch.ones(2)])
    in_backward = StepInBackward(torch.optim.SGD(model.parameters(), lr=1.0))
    with in_backward.updating():
        (model[0].sum() + model[1].sum() * float("inf")).backward()
    assert (in_backward.updated, in_backward.skipped) == (1, 1)
    assert [parameter.tolist() for parameter in model] == [[0, 0], [1, 1]]


def test_another_backward_or_trainer_updates_nothing_of_it(make_trainer, parts, tmp_path):
    model = parts(TrainConfig(run_dir="", steps=1))[0]
    settings = {"model": model, "grad_clip": None, "step_in_backward": True, "ema_decay": None}
    first = torch.optim.SGD(model.parameters(), lr=1.0)
    make_trainer(optimizer=first, **settings).train_step()
    after = model.conv.weight.detach().clone()
    model.conv.weight.sum().backward()
    assert torch.equal(model.conv.weight, after)
    model.zero_grad()
    make_trainer(optimizer=torch.optim.SGD(model.parameters(), lr=0.0), **settings).train_step()
    assert torch.equal(model.conv.weight, after)


def test_a_step_taken_in_part_says_so_and_moves_the_average_but_no_buffer(make_trainer):
    def poisoned(model, batch, draws):
        loss = model[1](model[0](draws.normal((3, 2), "x"))).square().mean()
        return loss + 0 * (model[0].weight - model[0].weight.detach()).sqrt().sum()  # a gradient of 0 * inf

    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = make_trainer(
        model=model, objective=poisoned, optimizer=optimizer, grad_clip=None, step_in_backward=True, ema_decay=0.5
    )
    averages = {name: average.clone() for name, average in trainer.ema.averages.items()}
    assert trainer.train_step().skipped == "1 gradients are not finite; 3 others were used"
    assert not torch.equal(trainer.ema.averages["1.weight"], averages["1.weight"])
    assert torch.equal(trainer.ema.averages["0.weight"], averages["0.weight"])
    assert model[0].running_mean.tolist() == [0, 0]


def test_a_loss_that_is_not_finite_touches_nothing(make_trainer):
    trainer = make_trainer(
        objective=lambda model, batch, draws: model.conv.weight.sum() * float("nan"),
        grad_clip=None,
        step_in_backward=True,
    )
    before = trainer.model.conv.weight.detach().clone()
    assert trainer.train_step().skipped == "loss is nan"
    assert torch.equal(trainer.model.conv.weight, before)


def test_frozen_parameters_are_left_alone():
    model = wide_model()
    model[0].requires_grad_(False)
    in_backward = StepInBackward(torch.optim.SGD(model.parameters(), lr=1.0))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with in_backward.updating():
        model(torch.ones(2, 64, dtype=torch.bfloat16)).float().sum().backward()
    moved = [not torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True)]
    assert moved == [False, False, True, True]


def test_waiting_for_new_blocks_is_refused():
    optimizer = torch.optim.SGD(wide_model().parameters(), lr=1.0)
    optimizer.param_groups[0][FROZEN] = 3
    with pytest.raises(ValueError, match="step_in_backward with frozen_steps 3"):
        StepInBackward(optimizer)

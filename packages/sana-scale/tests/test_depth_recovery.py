import copy

import pytest
import torch
from torch import nn

from sana_scale.depth import Distillation, prune_depth


class Model(nn.Module):
    """Residual blocks between two projections."""

    def __init__(self, depth=4, width=8):
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.final = nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.final(x)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return x + self.linear(x).tanh()


class Draws:
    """Draws the same numbers for the same purpose, as often as it is asked."""

    def normal(self, shape, purpose):
        return torch.randn(shape, generator=torch.Generator().manual_seed(len(purpose)))


def regression(model, batch, draws):
    noisy = batch["x"] + draws.normal(batch["x"].shape, "noise")
    return (model(noisy) - batch["y"]).square().flatten(1).mean(1).mean()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(7)
    return {"x": torch.randn(6, 5, 3, generator=generator), "y": torch.randn(6, 5, 3, generator=generator)}


@pytest.fixture
def pruned():
    torch.manual_seed(0)
    teacher = Model()
    student, plan = prune_depth(copy.deepcopy(teacher), keep=[0, 2])
    return student, teacher, plan


def unpruned():
    torch.manual_seed(0)
    teacher = Model()
    student, plan = prune_depth(copy.deepcopy(teacher), keep=range(4))
    return student, teacher, plan


def test_a_student_that_equals_its_teacher_has_only_the_task_to_learn(batch):
    student, teacher, plan = unpruned()
    loss = Distillation(regression, teacher, plan, task=0.5, output=3.0, features=2.0)(student, batch, Draws())
    assert torch.equal(loss, 0.5 * regression(student, batch, Draws()))


def test_the_output_term_is_the_squared_distance_of_the_outputs(pruned, batch):
    student, teacher, plan = pruned
    noisy = batch["x"] + Draws().normal(batch["x"].shape, "noise")
    expected = (student(noisy) - teacher(noisy)).square().mean()
    loss = Distillation(regression, teacher, plan, task=0, output=1, features=0)(student, batch, Draws())
    assert torch.allclose(loss, expected, rtol=1e-6)


def test_a_kept_block_answers_for_those_removed_behind_it(pruned, batch):
    student, teacher, plan = pruned
    noisy = batch["x"] + Draws().normal(batch["x"].shape, "noise")

    def relative_error(state, target):
        return ((state - target).square().sum((1, 2)) / target.square().sum((1, 2))).mean()

    s = t = student.embed(noisy)
    errors = []
    for kept, replaced in zip(student.blocks, ((0, 1), (2, 3)), strict=True):
        s = kept(s)
        for block in replaced:
            t = teacher.blocks[block](t)
        errors.append(relative_error(s, t))
    distillation = Distillation(regression, teacher, plan, task=0, output=0, features=1, outlier_sigmas=None)
    assert torch.allclose(distillation(student, batch, Draws()), torch.stack(errors).mean(), rtol=1e-5)


def test_massive_activations_of_the_teacher_do_not_outweigh_the_rest(pruned, batch):
    student, teacher, plan = pruned
    with torch.no_grad():
        teacher.blocks[3].linear.bias[0] = 50.0
        teacher.blocks[3].forward = lambda x: x + torch.tensor([1e4, *[0.0] * 7])  # one channel of eight
    masked = Distillation(regression, teacher, plan, task=0, output=0, features=1)(student, batch, Draws())
    plain = Distillation(regression, teacher, plan, task=0, output=0, features=1, outlier_sigmas=None)
    assert plain(student, batch, Draws()) > 0.45  # the one channel is all of the last state, and wholly missed
    assert masked < plain(student, batch, Draws())


def test_the_loss_is_the_mean_of_its_samples(pruned, batch):
    student, teacher, plan = pruned

    def noiseless(model, batch, draws):
        return (model(batch["x"]) - batch["y"]).square().flatten(1).mean(1).mean()

    distillation = Distillation(noiseless, teacher, plan)
    whole = distillation(student, batch, None)
    halves = [
        distillation(student, {name: x[rows] for name, x in batch.items()}, None) for rows in (range(3), range(3, 6))
    ]
    assert torch.allclose(whole, torch.stack(halves).mean(), rtol=1e-5)


def test_only_the_student_learns_and_it_comes_closer_to_its_teacher(pruned, batch):
    student, teacher, plan = pruned
    distillation = Distillation(regression, teacher, plan, task=0)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = distillation(student, batch, Draws())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module._forward_hooks for module in (*student.modules(), *teacher.modules()))


def test_models_that_return_tuples_or_mappings_are_distilled(pruned, batch):
    student, teacher, plan = pruned
    expected = Distillation(regression, teacher, plan)(student, batch, Draws())

    def wrapped(model, batch, draws):
        return regression(lambda x: model(x)["sample"], batch, draws)

    for model in (student, teacher):
        model.forward = lambda x, forward=model.forward: {"sample": forward(x)}
    assert torch.equal(Distillation(wrapped, teacher, plan)(student, batch, Draws()), expected)


def test_a_teacher_that_was_pruned_itself_is_refused(pruned):
    student, _, plan = pruned
    with pytest.raises(ValueError, match="teacher has 2 blocks and the plan is for 4: copy it before pruning"):
        Distillation(regression, student, plan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": -1}, "features is -1"),
        ({"task": 0, "output": 0, "features": 0}, "all 0"),
        ({"outlier_sigmas": 0}, "outlier_sigmas is 0"),
    ],
)
def test_weights_that_make_no_loss_are_refused(pruned, options, message):
    _, teacher, plan = pruned
    with pytest.raises(ValueError, match=message):
        Distillation(regression, teacher, plan, **options)


def test_an_objective_that_calls_the_model_twice_is_refused(pruned, batch):
    student, teacher, plan = pruned
    distillation = Distillation(lambda m, b, d: regression(m, b, d) + regression(m, b, d), teacher, plan)
    with pytest.raises(ValueError, match="called the model 2 times"):
        distillation(student, batch, Draws())

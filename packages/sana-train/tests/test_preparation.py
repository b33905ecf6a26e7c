import pytest
import torch
from torch import nn

from sana_train import TrainConfig
from sana_train.preparation import prepare, repeated_blocks


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.parts = nn.ModuleList([nn.Linear(8, 8)])
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + self.parts[0](torch.tanh(self.linear(x)))


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.inner = nn.Sequential(nn.Linear(8, 8))
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x):
        x = self.inner(self.first(x))
        for block in self.blocks:
            x = block(x)
        return x


def gradients(model):
    model(torch.linspace(-1, 1, 32).view(4, 8)).square().sum().backward()
    return [parameter.grad for parameter in model.parameters()]


def test_blocks_are_the_members_of_the_outermost_lists():
    model = Stack()
    assert list(repeated_blocks(model)) == list(model.blocks)


def test_recomputed_activations_give_the_same_gradients():
    plain, recomputing = Stack(), Stack()
    prepare(recomputing, TrainConfig(run_dir="", steps=1, activation_checkpointing=True))
    assert all(map(torch.equal, gradients(plain), gradients(recomputing)))
    assert [block.calls for block in recomputing.blocks] == [2, 2]
    assert list(plain.state_dict()) == list(recomputing.state_dict())


def test_a_model_that_is_prepared_again_recomputes_once():
    model = Stack()
    for _ in range(2):
        prepare(model, TrainConfig(run_dir="", steps=1, activation_checkpointing=True))
    gradients(model)
    assert [block.calls for block in model.blocks] == [2, 2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # inductor's own
def test_compiled_blocks_give_the_same_gradients_and_names():
    plain, compiled = Stack(), Stack()
    prepare(compiled, TrainConfig(run_dir="", steps=1, compile=True))
    for one, other in zip(gradients(plain), gradients(compiled), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # sums in another order
    assert list(plain.state_dict()) == list(compiled.state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # inductor's own
def test_blocks_stay_compiled_for_more_sizes_than_pytorch_puts_up_with():
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    model = nn.Sequential(nn.ModuleList([Twice()]))
    prepare(model, TrainConfig(run_dir="", steps=1, compile=True))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for size in range(2, 12):
            assert torch.equal(model[0][0](torch.ones(size)), torch.full((size,), 2.0))

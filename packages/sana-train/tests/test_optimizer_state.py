import torch
from torch import nn

from sana_train import CAME8bit
from sana_train.checkpointing.optimizer_state import (
    create_state,
    load_state_numbers,
    optimizer_changes,
    optimizer_settings,
    state_numbers,
    state_tensors,
    with_state,
)


class Counting(torch.optim.SGD):
    """An optimizer that counts its steps in a plain number, as some do."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["step"] = self.state[parameter].get("step", 0) + 1


def test_made_state_has_the_names_and_shapes_of_state_after_a_step():
    for make in (torch.optim.AdamW, CAME8bit):
        stepped, fresh = nn.Linear(160, 128), nn.Linear(160, 128)
        used, made = make(stepped.parameters(), lr=0.1), make(fresh.parameters(), lr=0.1)
        stepped(torch.ones(1, 160)).sum().backward()
        used.step()
        before = fresh.weight.detach().clone()
        create_state(fresh, made, {"weight", "bias"})
        shapes = [
            {n: (x.shape, x.dtype) for n, x in state_tensors(*of).items()} for of in ((stepped, used), (fresh, made))
        ]
        assert shapes[0] == shapes[1]
        assert torch.equal(fresh.weight, before)
        assert fresh.weight.grad is None
        assert made.param_groups[0]["lr"] == 0.1


def test_plain_numbers_come_back():
    model = nn.Linear(2, 2)
    optimizer = Counting(model.parameters())
    for _ in range(3):
        optimizer.step()
    numbers = state_numbers(model, optimizer)
    assert numbers == {"weight.step": 3, "bias.step": 3}
    other = Counting(model.parameters())
    create_state(model, other, {"weight", "bias"})
    load_state_numbers(model, other, numbers)
    assert state_numbers(model, other) == numbers


def test_changed_settings_are_named():
    model = nn.Linear(2, 2)
    then = optimizer_settings(torch.optim.AdamW(model.parameters(), lr=0.1))
    assert optimizer_changes(then, optimizer_settings(torch.optim.AdamW(model.parameters(), lr=0.1))) == []
    now = optimizer_settings(torch.optim.AdamW(model.parameters(), lr=0.2, betas=(0.5, 0.9)))
    assert optimizer_changes(then, now) == ["lr 0.1 -> 0.2", "betas [0.9, 0.999] -> [0.5, 0.9]"]
    assert optimizer_changes(then, optimizer_settings(Counting(model.parameters()))) == [
        "optimizer AdamW of 1 groups -> Counting of 1 groups"
    ]


def test_only_parameters_with_state_in_the_checkpoint_get_some():
    for make in (torch.optim.AdamW, CAME8bit):
        model = nn.Linear(2, 2)
        optimizer = make(model.parameters(), lr=0.1)
        create_state(model, optimizer, {"bias"})
        assert with_state(model, optimizer) == ["bias"]

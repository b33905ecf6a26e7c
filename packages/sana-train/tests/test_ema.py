import pytest
import torch
from torch import nn

from sana_train import EMA


def test_average_follows_the_formula():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema = EMA(model, decay=0.9)
    model.weight.data.fill_(2.0)
    ema.update()  # decay (1 + 0) / (10 + 0) = 0.1
    assert ema.averages["weight"].item() == pytest.approx(0.1 * 1 + 0.9 * 2)
    ema.updates = 10_000
    ema.update()
    assert ema.averages["weight"].item() == pytest.approx(0.9 * 1.9 + 0.1 * 2)


def test_applied_weights_are_put_back_even_after_an_error():
    model = nn.Linear(2, 2)
    ema = EMA(model, decay=0.5)
    model.weight.data.add_(1)
    before = model.weight.detach().clone()
    with ema.applied():
        assert torch.equal(model.weight, ema.averages["weight"])
    assert torch.equal(model.weight, before)
    with pytest.raises(KeyError), ema.applied():
        raise KeyError
    assert torch.equal(model.weight, before)


def test_an_offloaded_average_is_the_same_average():
    model = nn.Linear(2, 2).bfloat16()
    here, offloaded = EMA(model, 0.5), EMA(model, 0.5, offload=True)
    model.weight.data.add_(1)
    here.update()
    offloaded.update()
    assert torch.equal(here.averages["weight"], offloaded.averages["weight"])
    assert offloaded.averages["weight"].dtype == torch.float32

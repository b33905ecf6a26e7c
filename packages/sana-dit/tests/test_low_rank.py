"""Linear layers with low-rank additions."""

import copy
import pickle

import pytest
import torch
from torch import nn

from sana_dit.layers import ConvLinear, Linear
from sana_dit.low_rank import LowRank, additions, fuse, set_additions, unfuse


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return Linear(6, 5)


def addition(rank, seed):
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(rank, 6, generator=generator), torch.randn(5, rank, generator=generator))


def test_additions_add_up(linear):
    x, (a, b) = torch.randn(2, 3, 6), (addition(1, 1), addition(3, 2))
    expected = linear(x) + x @ (a.up @ a.down + b.up @ b.down).mT
    set_additions(linear, {"a": a, "b": b})
    torch.testing.assert_close(linear(x), expected)
    fuse(linear)
    torch.testing.assert_close(linear(x), expected)


def test_additions_come_back_as_they_were_given(linear):
    given = {"a": addition(1, 1), "b": addition(3, 2)}
    set_additions(linear, given)
    for name, factors in additions(linear).items():
        assert all(torch.equal(x, y) for x, y in zip(factors, given[name], strict=True))
    assert list(additions(linear)) == ["a", "b"]


def test_a_layer_without_additions_is_what_it_was(linear):
    before, kind = dict(vars(linear)), type(linear)
    set_additions(linear, {"a": addition(2, 1)})
    assert isinstance(linear, kind)
    set_additions(linear, {})
    assert type(linear) is kind
    assert vars(linear).keys() == before.keys()
    assert not list(linear.buffers())


def test_unfusing_gives_back_every_bit(linear):
    linear.bfloat16()
    before, place = linear.weight.clone(), linear.weight.data_ptr()
    a = addition(2, 1)
    set_additions(linear, {"a": LowRank(a.down.bfloat16(), a.up.bfloat16())})
    fuse(linear)
    fuse(linear)  # once is enough
    assert not torch.equal(linear.weight, before)
    assert linear.weight.data_ptr() == place
    unfuse(linear)
    assert torch.equal(linear.weight, before)


def test_additions_follow_the_layer_but_not_into_files(linear):
    set_additions(linear, {"a": addition(2, 1)})
    assert linear.state_dict().keys() == {"weight", "bias"}
    twin = copy.deepcopy(linear).double()
    assert twin.down.dtype == torch.float64
    assert linear.down.dtype == torch.float32
    linear.reset_parameters(torch.Generator().manual_seed(1))  # of the kind of layer it was


@pytest.mark.parametrize("kind", [nn.Linear, Linear, ConvLinear])
def test_a_layer_with_additions_can_be_pickled(kind):
    linear, x = kind(6, 5), torch.randn(2, 6)
    set_additions(linear, {"a": addition(2, 1)})
    twin = pickle.loads(pickle.dumps(linear))
    assert type(twin) is type(linear)
    assert torch.equal(twin(x), linear(x))
    set_additions(twin, {})
    assert type(twin) is kind


def test_any_kind_of_linear_layer_is_adapted():
    class Doubling(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    linear, x, a = Doubling(6, 5), torch.randn(2, 6), addition(2, 1)
    expected = linear(x) + x @ (a.up @ a.down).mT
    set_additions(linear, {"a": a})
    torch.testing.assert_close(linear(x), expected)

import sys

import pytest
import torch
from torch import nn

from sana_train.came import CAME, CAME8bit


def parameters(*shapes):
    return [nn.Parameter(torch.ones(shape)) for shape in shapes]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr is -1.0; it must be at least 0"),
        ({"betas": (0.9, 1.0, 0.9999)}, r"betas is \(0.9, 1.0, 0.9999\); .* from 0 to below 1"),
        ({"betas": (0.9, 0.999)}, "betas is .* three numbers"),
        ({"eps": (0.0, 1e-16)}, "eps is .* above 0"),
        ({"clip_threshold": 0.0}, "clip_threshold is 0.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"block_size": 0}, "block_size is 0; it must be at least 1"),
        ({"min_8bit_size": -1}, "min_8bit_size is -1"),
        ({"layout": "rows"}, "layout is 'rows'; it must be one of row, flat, dynamic"),
        ({"layout": "dynamic", "block_size": 100}, "block_size is 100; bitsandbytes has 64, .*, 4096"),
        ({"backend": "cuda"}, "backend is 'cuda'; it must be one of eager, compile, triton"),
        ({"backend": "triton", "layout": "flat"}, "backend='triton' does not know layout='flat': use eager or compile"),
        ({"backend": "triton", "block_size": 8193}, "block_size=8193: .* at most 8192 values"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ValueError, match=message):
        CAME8bit(parameters((4, 4)), **{"lr": 1e-3} | options)


def test_a_bad_group_is_not_added():
    optimizer = CAME8bit(parameters((4, 4)), 1e-3)
    with pytest.raises(ValueError, match="betas"):
        optimizer.add_param_group({"params": parameters((5, 5)), "betas": (2, 2, 2)})
    assert len(optimizer.param_groups) == 1


def test_the_dynamic_layout_names_the_extra_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"layout='dynamic' needs bitsandbytes: pip install 'sana-train\[bnb\]'"):
        CAME8bit(parameters((4, 4)), 1e-3, layout="dynamic")


def test_a_sparse_gradient_is_refused():
    table = nn.Embedding(10, 4, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="a gradient is sparse"):
        CAME(table.parameters(), 1e-3).step()


def test_what_cannot_be_joined_is_refused():
    one, other, wider, vector = parameters((4, 4), (5, 4), (4, 5), (4,))
    everything = [one, other, wider, vector]
    with pytest.raises(ValueError, match="as many columns"):
        CAME(everything, 1e-3, joined=[(one, wider)])
    with pytest.raises(ValueError, match="must be matrices"):
        CAME(everything, 1e-3, joined=[(one, vector)])
    with pytest.raises(ValueError, match="names a parameter twice"):
        CAME(everything, 1e-3, joined=[(one, other), (one, other)])
    with pytest.raises(ValueError, match="put all in one group"):
        CAME([{"params": [one]}, {"params": [other]}], 1e-3, joined=[(one, other)])
    with pytest.raises(ValueError, match="not parameters of this optimizer"):
        CAME([wider], 1e-3, joined=[(one, other)])


def test_joined_matrices_are_stepped_together_or_not_at_all():
    weights = parameters((4, 4), (5, 4))
    optimizer = CAME(weights, 1e-3, joined=[weights])
    optimizer.step()
    weights[1].grad = torch.ones(5, 4)
    with pytest.raises(RuntimeError, match=r"1 of the joined \[\(4, 4\), \(5, 4\)\] have a gradient"):
        optimizer.step()
    (group,) = optimizer.param_groups
    optimizer.param_groups = [group | {"params": [weights[1]]}]
    with pytest.raises(RuntimeError, match="must be stepped together"):
        optimizer.step()

import pytest
import torch
from torch import nn

from sana_train.came import CAME, CAME8bit, optimizer_state_bytes


def sana_shapes(*, width, depth, qk_norm):
    """Shapes of the public Sana models in diffusers' layout."""
    hidden = 5 * width // 2
    square, vector = (width, width), (width,)
    block = [(6, width), *[square] * 4, vector, *[square, vector] * 4]
    block += [(2 * hidden, width, 1, 1), (2 * hidden,), (2 * hidden, 1, 3, 3), (2 * hidden,), (width, hidden, 1, 1)]
    block += [vector] * 4 * qk_norm
    embedders = [(width, 32, 1, 1), vector, (width, 256), vector, square, vector, (6 * width, width), (6 * width,)]
    caption = [(width, 2304), vector, square, vector, vector]
    return [*embedders, *caption, *block * depth, (2, width), (32, width), (32,)]


SANA_1_6B = sana_shapes(width=2240, depth=20, qk_norm=False)
SANA_1_5_4_8B = sana_shapes(width=2240, depth=60, qk_norm=True)


def count(shapes):
    return sum(torch.Size(shape).numel() for shape in shapes)


@pytest.mark.parametrize(("shapes", "parameters"), [(SANA_1_6B, 1_604_462_752), (SANA_1_5_4_8B, 4_721_825_952)])
def test_came8bit_keeps_at_most_1_03_bytes_of_a_parameter(shapes, parameters):
    assert count(shapes) == parameters
    assert optimizer_state_bytes(shapes) <= 1.03 * parameters


@pytest.mark.parametrize(("optimizer", "nbytes"), [("adamw", 8.00), ("came", 4.01), ("came8bit", 1.03)])
def test_bytes_of_a_parameter_of_sana_1_6b(optimizer, nbytes):
    assert optimizer_state_bytes(SANA_1_6B, optimizer) / count(SANA_1_6B) == pytest.approx(nbytes, abs=0.005)


def model(width):
    """The tensors of one block; too narrow, vectors would weigh as much as matrices."""
    return nn.ParameterList(torch.full(shape, 0.1) for shape in sana_shapes(width=width, depth=1, qk_norm=True))


def kept(optimizer):
    tensors = (value for state in optimizer.state.values() for name, value in state.items() if name != "step")
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


@pytest.mark.parametrize("layout", ["row", "flat", "dynamic"])
def test_the_count_is_what_an_optimizer_allocates(layout):
    if layout == "dynamic":
        pytest.importorskip("bitsandbytes")
    parameters = model(256)
    optimizer = CAME8bit(parameters, 1e-3, layout=layout, block_size=1024, min_8bit_size=4096)
    optimizer.init_state()
    shapes = [parameter.shape for parameter in parameters]
    assert kept(optimizer) == optimizer_state_bytes(shapes, layout=layout, block_size=1024, min_8bit_size=4096)


def test_one_block_at_full_width_keeps_the_promise():
    parameters = nn.ParameterList(torch.empty(shape) for shape in sana_shapes(width=2240, depth=1, qk_norm=True))
    optimizer = CAME8bit(parameters, 1e-3)
    optimizer.init_state()
    assert kept(optimizer) == optimizer_state_bytes(parameter.shape for parameter in parameters)
    assert kept(optimizer) <= 1.03 * sum(parameter.numel() for parameter in parameters)


def test_float32_momentum_is_counted_too():
    parameters = model(64)
    optimizer = CAME(parameters, 1e-3)
    optimizer.init_state()
    assert kept(optimizer) == optimizer_state_bytes([parameter.shape for parameter in parameters], "came")


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"optimizer is 'adam'; it must be one of came8bit, came, adamw"):
        optimizer_state_bytes([(2, 2)], "adam")

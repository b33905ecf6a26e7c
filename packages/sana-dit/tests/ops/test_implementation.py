"""The switch between implementations."""

import pytest

from sana_dit import ops
from sana_dit.ops.implementation import selected


def test_reference_holds_inside_the_block_only():
    assert selected() == "fastest"
    with ops.use("reference"):
        assert selected() == "reference"
        with ops.use("fastest"):
            assert selected() == "fastest"
        assert selected() == "reference"
    assert selected() == "fastest"


def test_an_error_inside_the_block_puts_the_switch_back():
    with pytest.raises(KeyError), ops.use("reference"):
        raise KeyError
    assert selected() == "fastest"


def test_an_unknown_implementation_is_named():
    with (
        pytest.raises(ValueError, match="implementation is 'fused'; it must be 'fastest' or 'reference'"),
        ops.use("fused"),
    ):
        pass

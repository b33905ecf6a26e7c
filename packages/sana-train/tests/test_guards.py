import json
import math
import random

import pytest

from sana_train.guards import SpikeGuard


def watched(guard, steps=128, level=1.0):
    """The guard after steps whose loss is `level` with a deviation of a tenth of it."""
    noise = random.Random(0)
    for _ in range(steps):
        assert guard.verdict(level * (1 + 0.1 * noise.choice((-1, 1))), level) is None
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_from_the_first_step(value):
    assert SpikeGuard().verdict(value, 1.0) == f"loss is {value}"
    assert SpikeGuard(sigmas=None).verdict(1.0, value) == f"gradient norm is {value}"


def test_a_spike_is_named_with_its_height():
    guard = watched(SpikeGuard(sigmas=6.0))
    assert guard.verdict(1.55, 1.0) is None
    assert guard.verdict(2.0, 1.0).startswith("loss 2 is 9.")
    reason = guard.verdict(1.0, 1.5)  # a window of equal norms deviates by the floor of 5%: (1.5 - 1) / 0.05
    assert reason == "gradient norm 1.5 is 10.0 standard deviations above the mean of the last 128 steps"


def test_low_values_are_no_spikes():
    guard = watched(SpikeGuard(sigmas=2.0))
    assert guard.verdict(0.001, 0.001) is None


def test_noise_on_a_constant_loss_is_no_spike():
    guard = SpikeGuard(sigmas=6.0)
    for _ in range(64):
        guard.verdict(1.0, 1.0)
    assert guard.verdict(1.001, 1.2) is None
    assert guard.verdict(0.0, 0.0) is None


def test_a_refused_value_does_not_excuse_the_next_one():
    guard = watched(SpikeGuard(sigmas=6.0))
    before = guard.state_dict()
    assert [guard.verdict(50.0, 1.0) is None for _ in range(20)] == [False] * 20
    assert guard.state_dict() == before


def test_nothing_is_judged_before_the_minimum():
    guard = SpikeGuard(sigmas=3.0, minimum=4)
    assert [guard.verdict(loss, 1.0) is None for loss in (1.0, 900.0, 1.0, 1.0)] == [True] * 4
    guard = SpikeGuard(sigmas=3.0, minimum=4)
    assert [guard.verdict(loss, None) is None for loss in (1.0, 1.0, 1.0, 1.0, 900.0)] == [True] * 4 + [False]


def test_the_window_follows_a_level_that_falls():
    guard = watched(watched(SpikeGuard(sigmas=6.0), level=1.0), level=0.1)
    assert guard.verdict(1.0, 0.1) is not None


def test_a_restored_guard_decides_alike():
    guard = watched(SpikeGuard(sigmas=6.0), steps=77)
    restored = SpikeGuard(sigmas=6.0)
    restored.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert restored.state_dict() == guard.state_dict()  # equal floats, which no two different bit patterns here are
    assert restored.verdict(3.0, 1.0) == guard.verdict(3.0, 1.0) is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigmas": 0.0}, "sigmas is 0.0"),
        ({"sigmas": math.nan}, "sigmas is nan"),
        ({"minimum": 1}, "minimum is 1"),
        ({"minimum": 200}, "minimum is 200 and window 128"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SpikeGuard(**settings)

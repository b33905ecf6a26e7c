import pytest

from sana_train import TrainConfig


def test_learning_rate_rises_stays_and_falls():
    config = TrainConfig(run_dir="run", steps=10, warmup_steps=2, decay_steps=4, final_lr_factor=0.2)
    factors = [config.lr_factor(step) for step in range(10)]
    assert factors[:6] == [0.5, 1, 1, 1, 1, 1]
    assert factors[6:] == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_learning_rate_stays_to_the_end_without_decay():
    config = TrainConfig(run_dir="run", steps=3)
    assert [config.lr_factor(step) for step in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"warmup_steps": 8, "decay_steps": 8}, "do not fit into steps 10"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"grad_clip": 0.0}, "grad_clip is 0.0"),
        ({"grad_clip": float("nan")}, "grad_clip is nan"),
        ({"spike_sigmas": float("nan")}, "spike_sigmas is nan"),
        ({"ema_decay": float("nan")}, "ema_decay is nan"),
        ({"steps": 1, "decay_steps": 1}, "the only step would have a learning rate of 0"),
        ({"shard_over": 0}, "shard_over is 0"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"final_lr_factor": -1.0}, "final_lr_factor is -1.0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"max_skips": 0}, "max_skips is 0"),
        ({"spike_sigmas": -1.0}, "spike_sigmas is -1.0"),
        ({"step_in_backward": True}, "accumulate must be 1 and grad_clip None"),
        ({"step_in_backward": True, "grad_clip": None, "accumulate": 2}, "accumulate must be 1"),
        ({"ema_offload": True, "ema_decay": None}, "no average to keep"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"run_dir": "run", "steps": 10} | change)


def test_only_what_changes_the_weights_counts_as_a_change():
    then = TrainConfig(run_dir="a", steps=10, log_every=1).as_json()
    now = TrainConfig(run_dir="b", steps=12, log_every=2, ema_decay=None)
    assert now.changes_since(then) == ["steps 10 -> 12", "ema_decay 0.9999 -> None"]

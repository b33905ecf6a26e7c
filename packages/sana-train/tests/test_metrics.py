import json
import math

import pytest

from sana_train.metrics import MetricsLog, read_metrics


def test_lines_are_read_as_they_were_written(tmp_path):
    log = MetricsLog(tmp_path / "run")
    lines = [
        {"step": 1, "loss": 0.1 + 0.2},
        {"step": 2, "keys": ["一只猫", "a\u2028b\u2029c\x85d\r\n"], "skipped": "loss is nan"},
    ]
    for line in lines:
        log.append(line)
    assert read_metrics(tmp_path / "run") == lines
    log.forget_after(2)
    assert read_metrics(tmp_path / "run") == lines
    assert (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").count("\n") == 2


def test_numbers_that_json_has_not_become_null(tmp_path):
    MetricsLog(tmp_path).append({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "loss": None, "grad_norm": None}


def test_lines_of_steps_to_be_done_again_are_forgotten(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3, 4):
        log.append({"step": step})
    with log.path.open("a") as file:
        file.write('{"step": 5, "lo')  # as a kill leaves it
    log.forget_after(2)
    log.append({"step": 3, "again": True})
    assert log.path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "again": true}\n'


def test_a_damaged_line_is_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'\x00\xff\n[1]\n{"loss": 1}\n{"step": 7}\n{"step": "x"}\n{"st')
    assert read_metrics(tmp_path) == [{"step": 7}]
    MetricsLog(tmp_path).forget_after(9)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 7}\n'


def test_a_run_without_a_log_has_no_lines(tmp_path):
    MetricsLog(tmp_path / "run").forget_after(3)
    assert read_metrics(tmp_path / "run") == []
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own, on NumPy 2 and protobuf
def test_tensorboard_shows_a_step_done_again_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path, tensorboard=True)
    for step in (1, 2, 3):
        log.append({"step": step, "loss": float(step), "keys": ["a"]})
    log.forget_after(2)
    log.append({"step": 3, "loss": 30.0})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]

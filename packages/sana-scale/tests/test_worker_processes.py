import multiprocessing
import pickle

import pytest

from sana_scale.worker_processes import WorkerProcesses


def test_where_one_worker_cannot_be_started_none_is_left():
    cannot_travel = lambda: None  # noqa: E731
    with (
        pytest.raises((pickle.PicklingError, AttributeError)),
        WorkerProcesses(bool, (), count=2, devices=("", cannot_travel)),
    ):
        pass
    assert multiprocessing.active_children() == []

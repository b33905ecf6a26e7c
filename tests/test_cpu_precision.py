import errno
import json
import os

import pytest
import torch

from sana import cpu_precision
from sana.cpu_precision import bfloat16_gain, fastest_dtype
from sana.devices import running_dtype


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fastest_dtype.cache_clear()
    yield tmp_path / "sana" / "bfloat16-gain.json"
    fastest_dtype.cache_clear()


def test_the_gain_is_measured_once_and_remembered(cache, monkeypatch):
    first = fastest_dtype()
    ((key, gain),) = json.loads(cache.read_text()).items()
    assert torch.__version__ in key
    assert first == (torch.bfloat16 if gain >= 1.25 else torch.float32)
    monkeypatch.delattr(cpu_precision, "bfloat16_gain")
    fastest_dtype.cache_clear()
    assert fastest_dtype() == first


@pytest.mark.parametrize(("gain", "dtype"), [(1.0, torch.float32), (2.0, torch.bfloat16)])
def test_what_was_measured_decides(cache, gain, dtype):
    fastest_dtype()
    cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_text()), gain)))
    fastest_dtype.cache_clear()
    assert fastest_dtype() == dtype


@pytest.mark.parametrize("text", ["{", "[]", '{"other": 3}'])
def test_a_damaged_or_foreign_file_is_measured_over(cache, text):
    cache.parent.mkdir(parents=True)
    cache.write_text(text)
    fastest_dtype()
    assert any(torch.__version__ in key for key in json.loads(cache.read_text()))


def test_a_cache_that_cannot_be_written_costs_only_the_measurement(cache):
    cache.parent.write_text("a file where the folder should be")
    assert fastest_dtype() in (torch.float32, torch.bfloat16)


def test_a_full_disk_is_left_as_it_was(cache, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert fastest_dtype() in (torch.float32, torch.bfloat16)
    assert list(cache.parent.iterdir()) == []


def test_the_gain_is_a_ratio_of_times():
    assert 0.01 < bfloat16_gain() < 100


def test_a_checkpoint_runs_on_a_cpu_in_fp32_unless_it_was_published_in_half_precision(cache):
    cpu = torch.device("cpu")
    assert running_dtype(torch.float32, cpu) == torch.float32
    assert running_dtype(torch.bfloat16, cpu) == running_dtype(torch.float16, cpu) == fastest_dtype()


def test_a_checkpoint_runs_on_a_gpu_in_half_precision():
    gpu = torch.device("cuda")
    dtypes = {dtype: running_dtype(dtype, gpu) for dtype in (torch.float32, torch.bfloat16, torch.float16)}
    assert dtypes == {torch.float32: torch.bfloat16, torch.bfloat16: torch.bfloat16, torch.float16: torch.float16}

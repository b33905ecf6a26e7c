import subprocess
import sys
from typing import get_args

import pytest

import sana
import sana_ae.ops.implementation
import sana_dit.ops.implementation
from sana import choices
from sana.publishing import upload
from sana_dit import Quantization
from sana_train.growth import Init


def test_all_is_sorted_and_there():
    assert sana.__all__ == sorted(sana.__all__) == dir(sana)
    assert all(getattr(sana, name).__module__.startswith("sana.") for name in sana.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="module 'sana' has no attribute 'Pipeline'"):
        _ = sana.Pipeline


def test_the_command_starts_without_what_takes_seconds_to_import():
    code = "import sys, sana.commands; print({'torch', 'transformers', 'PIL', 'huggingface_hub'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_options_name_all_that_the_libraries_have():
    assert get_args(choices.QuantizationName) == get_args(Quantization)
    assert get_args(choices.InitName) == get_args(Init)
    assert get_args(choices.Existing) == get_args(upload.Existing)
    for library in (sana_ae, sana_dit):
        assert set(get_args(choices.Kernels)) == set(get_args(library.ops.implementation.Implementation))

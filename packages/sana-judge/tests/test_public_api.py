import subprocess
import sys

import pytest

import sana_judge

NAMES = [
    "NVILA_LITE_2B",
    "CLIPScore",
    "Calibration",
    "CascadeJudge",
    "Detection",
    "GuardVerdict",
    "HTTPJudge",
    "ImageReward",
    "JudgeFacts",
    "JudgeScore",
    "Minimum",
    "PromptGuard",
    "RankMean",
    "Rule",
    "SigLIPScore",
    "SoftTIFA",
    "Table",
    "VILAConfig",
    "VILAJudge",
    "VILAModel",
    "VLMAnswers",
    "VQAScore",
    "Verdict",
    "YesNoJudge",
    "__version__",
    "geneval",
]


def test_all_is_sorted_and_exact():
    assert sana_judge.__all__ == NAMES
    assert all(hasattr(sana_judge, name) for name in sana_judge.__all__)


def test_what_loads_late_is_declared_and_nothing_else_is():
    assert set(sana_judge._LOADED_LATE) < set(sana_judge.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Judge'"):
        _ = sana_judge.Judge


def test_importing_it_needs_nothing_outside_the_standard_library():
    probe = "import sys, sana_judge; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout
    assert not {"torch", "numpy", "PIL", "transformers"} & set(loaded.split())

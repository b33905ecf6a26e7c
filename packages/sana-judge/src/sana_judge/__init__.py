"""Judges of text-to-image results: VILA-Judge without remote code, and GenEval's rules as plain functions."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from sana_judge import geneval
from sana_judge.geneval import Detection, Table, Verdict

if TYPE_CHECKING:
    from sana_judge.cascade import CascadeJudge
    from sana_judge.judge_facts import JudgeFacts
    from sana_judge.judge_score import Calibration, JudgeScore, Rule
    from sana_judge.vila_config import NVILA_LITE_2B, VILAConfig
    from sana_judge.vila_judge import VILAJudge
    from sana_judge.vila_model import VILAModel

__version__ = version("sana-judge")

__all__ = [
    "NVILA_LITE_2B",
    "Calibration",
    "CascadeJudge",
    "Detection",
    "JudgeFacts",
    "JudgeScore",
    "Rule",
    "Table",
    "VILAConfig",
    "VILAJudge",
    "VILAModel",
    "Verdict",
    "__version__",
    "geneval",
]

# torch and transformers take seconds to import, and GenEval's rules need neither: these load when first asked for.
_LOADED_LATE = {
    "NVILA_LITE_2B": "vila_config",
    "Calibration": "judge_score",
    "CascadeJudge": "cascade",
    "JudgeFacts": "judge_facts",
    "JudgeScore": "judge_score",
    "Rule": "judge_score",
    "VILAConfig": "vila_config",
    "VILAJudge": "vila_judge",
    "VILAModel": "vila_model",
}


def __getattr__(name: str) -> object:
    if name not in _LOADED_LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADED_LATE[name]}"), name)


def __dir__() -> list[str]:
    return __all__

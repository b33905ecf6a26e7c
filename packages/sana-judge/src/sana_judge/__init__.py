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
    from sana_judge.prompt_guard import GuardVerdict, PromptGuard
    from sana_judge.scorers.clip_score import CLIPScore
    from sana_judge.scorers.ensembles import Minimum, RankMean
    from sana_judge.scorers.http_judge import HTTPJudge
    from sana_judge.scorers.image_reward import ImageReward
    from sana_judge.scorers.siglip_score import SigLIPScore
    from sana_judge.scorers.vlm_answers import VLMAnswers
    from sana_judge.scorers.vqa_score import VQAScore
    from sana_judge.scorers.yes_no_judge import YesNoJudge
    from sana_judge.soft_tifa import SoftTIFA
    from sana_judge.vila.config import NVILA_LITE_2B, VILAConfig
    from sana_judge.vila.judge import VILAJudge
    from sana_judge.vila.model import VILAModel

__version__ = version("sana-judge")

__all__ = [
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

# torch and transformers take seconds to import, and GenEval's rules need neither: these load when first asked for.
_LOADED_LATE = {
    "NVILA_LITE_2B": "vila.config",
    "CLIPScore": "scorers.clip_score",
    "Calibration": "judge_score",
    "CascadeJudge": "cascade",
    "GuardVerdict": "prompt_guard",
    "HTTPJudge": "scorers.http_judge",
    "ImageReward": "scorers.image_reward",
    "JudgeFacts": "judge_facts",
    "JudgeScore": "judge_score",
    "Minimum": "scorers.ensembles",
    "PromptGuard": "prompt_guard",
    "RankMean": "scorers.ensembles",
    "Rule": "judge_score",
    "SigLIPScore": "scorers.siglip_score",
    "SoftTIFA": "soft_tifa",
    "VILAConfig": "vila.config",
    "VILAJudge": "vila.judge",
    "VILAModel": "vila.model",
    "VLMAnswers": "scorers.vlm_answers",
    "VQAScore": "scorers.vqa_score",
    "YesNoJudge": "scorers.yes_no_judge",
}


def __getattr__(name: str) -> object:
    if name not in _LOADED_LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADED_LATE[name]}"), name)


def __dir__() -> list[str]:
    return __all__

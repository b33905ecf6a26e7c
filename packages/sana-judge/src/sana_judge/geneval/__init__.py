"""GenEval (Ghosh et al., 2023, arXiv:2310.11513) without mmdetection: rules, files, detector and colours."""

from importlib import import_module
from typing import TYPE_CHECKING

from sana_judge.geneval.coco_classes import COCO_CLASSES
from sana_judge.geneval.detections_file import read_detections, write_detections
from sana_judge.geneval.layout import (
    PromptFolder,
    read_directory,
    read_metadata,
    save_prompt,
    write_metadata,
)
from sana_judge.geneval.results import Result, read_results, write_results
from sana_judge.geneval.rules import (
    COLORS,
    MAX_PER_CLASS,
    RELATIONS,
    Box,
    Detection,
    Verdict,
    asked_colors,
    evaluate,
    kept_detections,
    relative_position,
)
from sana_judge.geneval.scoring import ColorNamer, Detector, score_detections, score_directory
from sana_judge.geneval.summary import Table, table

if TYPE_CHECKING:
    from sana_judge.geneval.clip_colors import CLIPColors
    from sana_judge.geneval.mask2former import Mask2FormerDetector

__all__ = [
    "COCO_CLASSES",
    "COLORS",
    "MAX_PER_CLASS",
    "RELATIONS",
    "Box",
    "CLIPColors",
    "ColorNamer",
    "Detection",
    "Detector",
    "Mask2FormerDetector",
    "PromptFolder",
    "Result",
    "Table",
    "Verdict",
    "asked_colors",
    "evaluate",
    "kept_detections",
    "read_detections",
    "read_directory",
    "read_metadata",
    "read_results",
    "relative_position",
    "save_prompt",
    "score_detections",
    "score_directory",
    "table",
    "write_detections",
    "write_metadata",
    "write_results",
]

# The rules and the files need neither torch nor Pillow: what does loads when first asked for.
_LOADED_LATE = {"CLIPColors": "clip_colors", "Mask2FormerDetector": "mask2former"}


def __getattr__(name: str) -> object:
    if name not in _LOADED_LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADED_LATE[name]}"), name)


def __dir__() -> list[str]:
    return __all__

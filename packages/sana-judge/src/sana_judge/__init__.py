"""Judges of text-to-image results: GenEval's rules as plain functions."""

from importlib.metadata import version

from sana_judge import geneval
from sana_judge.geneval import Detection, Table, Verdict

__version__ = version("sana-judge")

__all__ = [
    "Detection",
    "Table",
    "Verdict",
    "__version__",
    "geneval",
]

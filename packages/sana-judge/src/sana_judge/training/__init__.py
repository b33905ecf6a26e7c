"""Training a judge: examples, objective, calibration and report; the loop is anybody's that takes an objective."""

from sana_judge.training.batches import ExampleBatches
from sana_judge.training.calibration import fit_calibration, fit_tasks
from sana_judge.training.converters import results_to_examples, run_images, run_to_examples
from sana_judge.training.examples import Example, Examples, read_examples, split_groups
from sana_judge.training.hard_negatives import geneval_prompt, hard_negatives
from sana_judge.training.low_rank import add_low_rank
from sana_judge.training.margins import MarginModel
from sana_judge.training.measures import accuracy, auc, calibration_error, per_prompt_auc, risk_coverage
from sana_judge.training.objective import MarginObjective, pairwise_loss
from sana_judge.training.plots import plot_report
from sana_judge.training.questions import Asked, QuestionBatcher
from sana_judge.training.report import JudgedExample, calibrated_facts, judge_report, write_report
from sana_judge.training.splitting import is_held_back
from sana_judge.training.validation import JudgeValidation

__all__ = [
    "Asked",
    "Example",
    "ExampleBatches",
    "Examples",
    "JudgeValidation",
    "JudgedExample",
    "MarginModel",
    "MarginObjective",
    "QuestionBatcher",
    "accuracy",
    "add_low_rank",
    "auc",
    "calibrated_facts",
    "calibration_error",
    "fit_calibration",
    "fit_tasks",
    "geneval_prompt",
    "hard_negatives",
    "is_held_back",
    "judge_report",
    "pairwise_loss",
    "per_prompt_auc",
    "plot_report",
    "read_examples",
    "results_to_examples",
    "risk_coverage",
    "run_images",
    "run_to_examples",
    "split_groups",
    "write_report",
]

"""A judge's training run: examples and objective of sana_judge, the loop of sana_train."""

import gc
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from sana_judge import VILAJudge
from sana_judge.training import (
    Example,
    ExampleBatches,
    JudgedExample,
    JudgeValidation,
    MarginModel,
    MarginObjective,
    QuestionBatcher,
    add_low_rank,
    calibrated_facts,
    judge_report,
    plot_report,
    read_examples,
    split_groups,
    write_report,
)
from sana_train import TrainConfig, Trainer

# A run validates this many times, on at most so many batches.
VALIDATIONS = 20
VALIDATION_BATCHES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeRun:
    """What a judge is trained from, and how.

    Attributes:
        data: JSON lines, see `sana_judge.training.read_examples`.
        base: the judge to start from, a folder or a Hub repository.
        out: folder of the run: checkpoints, log, and at the end `judge/`, `report.json` and its plots.
        lora: rank of the low-rank updates; None trains all weights.
        lr: None is 1e-4 with low-rank updates and 2e-5 without.
        pairwise: weight of the loss between pictures of one group.
        validation_share: of the groups; half of them calibrate, the other half are reported.
        max_tiles: most tiles of a picture, None for the judge's own limit.
    """

    data: Path
    base: str
    out: Path
    lora: int | None = 16
    steps: int = 1000
    batch_size: int = 16
    lr: float | None = None
    pairwise: float = 0.0
    validation_share: float = 0.1
    max_tiles: int | None = None
    seed: int = 0
    workers: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}; it must be between 0 and 1")
        if self.lora is not None and self.lora < 1:
            raise ValueError(f"lora is {self.lora}; a rank is at least 1, and None trains all weights")

    @property
    def learning_rate(self) -> float:
        """The one given, else the usual one."""
        return self.lr if self.lr is not None else 2e-5 if self.lora is None else 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeTrained:
    """The outcome of a run.

    Attributes:
        finished: whether its last step is reached; if not, the rest is empty.
        report: see `sana_judge.training.judge_report`.
        warnings: what the user should know of the data and the result.
    """

    finished: bool
    report: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def train_judge(run: JudgeRun, *, device: torch.device, resume: bool = False) -> JudgeTrained:
    """Train a judge, or go on training; at the end calibrate, measure and save it.

    Raises:
        FileNotFoundError: the data or the base are not there.
        ImportError: peft is not installed, and `lora` is given.
        ValueError: the data cannot be used, or are too few for a batch or a validation.
        CheckpointError: the run cannot be resumed with these settings.
    """
    examples = read_examples(run.data, progress=run.progress)
    training, validation = examples.split(run.validation_share)
    calibrating, reported = split_groups(validation, 0.5, salt="calibration")
    if not calibrating or not reported:
        raise ValueError(
            f"{len(validation)} of {len(examples.usable)} examples are held back, too few groups to calibrate and to "
            "report: give more prompts, or a larger validation share"
        )
    if not _fit(run, training, validation, device=device, resume=resume):
        return JudgeTrained(finished=False)
    gc.collect()  # the trainer's cycles hold the judge and the optimizer's state
    torch.cuda.empty_cache()
    judge = VILAJudge.from_pretrained(run.out / "model", max_tiles=run.max_tiles, device=device, progress=run.progress)
    warnings = [f"line {line} of {run.data} is left out: {reason}" for line, reason in examples.refused.items()]
    try:
        judge.facts = calibrated_facts(judge.facts, judge_examples(judge, calibrating))
    except ValueError as error:
        warnings.append(f"the judge is not calibrated: {error}")
    judge.save_pretrained(run.out / "judge")
    judged = judge_examples(judge, reported)
    counts = {"training": len(training), "calibration": len(calibrating), "refused": len(examples.refused)}
    report = judge_report(judged) | {"data": counts}
    write_report(run.out / "report.json", report)
    plot_report(judged, run.out)
    return JudgeTrained(finished=True, report=report, warnings=tuple(warnings))


def _fit(
    run: JudgeRun, training: Sequence[Example], validation: Sequence[Example], *, device: torch.device, resume: bool
) -> bool:
    trainer = make_judge_trainer(run, training, validation, device=device, resume=resume)
    return trainer.step == run.steps or trainer.fit()


def make_judge_trainer(
    run: JudgeRun,
    training: Sequence[Example],
    validation: Sequence[Example],
    *,
    device: torch.device,
    resume: bool = False,
) -> Trainer:
    """The trainer of a run, ready to `fit()`; see `train_judge` for what it raises."""
    judge = VILAJudge.from_pretrained(
        run.base, dtype=_frozen_dtype(run, device), max_tiles=run.max_tiles, device=device, progress=run.progress
    )
    if run.lora is None:
        judge.model.requires_grad_(True)
    else:
        add_low_rank(judge.model, run.lora)
    model = MarginModel(judge)
    for parameter in _learning(model):
        parameter.data = parameter.data.float()
    batcher = QuestionBatcher(judge.questions, tile_tokens=judge.model.config.tile_tokens)
    make = Trainer.start_or_resume if resume else Trainer
    return make(
        model,
        MarginObjective(pairwise=run.pairwise),
        lambda prepared: AdamW(_learning(prepared), lr=run.learning_rate, weight_decay=0.01),
        _batches(run, judge, training, batcher),
        _config(run, device),
        validation=_validation(run, judge, validation, batcher),
        settings=_fixed(run, training),
    )


def judge_examples(judge: VILAJudge, examples: Sequence[Example]) -> list[JudgedExample]:
    """What a judge says of each example, by the calibration of its task where there is one."""
    scores = judge.score([example.prompt for example in examples], [example.image for example in examples])
    return [
        JudgedExample(
            margin=score.margin,
            p_yes=judge.facts.tasks.get(example.task, judge.facts.calibration)(score.margin),
            label=example.label,
            group=example.group,
            task=example.task,
        )
        for score, example in zip(scores, examples, strict=True)
    ]


def _frozen_dtype(run: JudgeRun, device: torch.device) -> torch.dtype:
    """What learns is fp32; what is only added to may be half as large on a GPU."""
    return torch.float32 if run.lora is None or device.type == "cpu" else torch.bfloat16


def _learning(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _batches(run: JudgeRun, judge: VILAJudge, examples: Sequence[Example], batcher: QuestionBatcher) -> ExampleBatches:
    size = min(run.batch_size, len(examples))
    return ExampleBatches(
        examples, batcher, judge.model.config, batch_size=size, max_tiles=run.max_tiles, seed=run.seed
    )


def _validation(
    run: JudgeRun, judge: VILAJudge, examples: Sequence[Example], batcher: QuestionBatcher
) -> JudgeValidation:
    batches = _batches(run, judge, examples, batcher)
    return JudgeValidation(batches, steps=min(VALIDATION_BATCHES, len(examples) // batches.batch_size))


def _config(run: JudgeRun, device: torch.device) -> TrainConfig:
    every = max(1, run.steps // VALIDATIONS)
    return TrainConfig(
        run_dir=str(run.out),
        steps=run.steps,
        seed=run.seed,
        warmup_steps=run.steps * 3 // 100,
        decay_steps=run.steps * 8 // 10,
        ema_decay=None,
        precision="fp32" if device.type == "cpu" else "bf16",
        validate_every=every,
        checkpoint_every=every,
        log_every=max(1, min(20, every)),
        workers=run.workers,
        progress=run.progress,
    )


def _fixed(run: JudgeRun, training: Sequence[Example]) -> dict[str, Any]:
    """What decides what a judge learns, apart from the learning rate and the steps."""
    folder = run.data.parent.resolve()
    told = repr([(e.prompt, os.path.relpath(e.image, folder), e.label, e.group, e.negatives) for e in training])
    fields = ("base", "lora", "batch_size", "pairwise", "max_tiles")
    return {name: getattr(run, name) for name in fields} | {"data": hashlib.sha256(told.encode()).hexdigest()[:16]}

"""A pipeline with fewer blocks: measure, choose, remove, recover, and report all of it (SANA-1.5, depth pruning)."""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sana.catalog import public_name
from sana.model_card import PARENT
from sana.pipeline import SanaPipeline
from sana.pruning_calibration import Calibration, Sample, VelocityError, draw_samples, measure_importance
from sana.pruning_recovery import DrawnSamples, empty_caption, recover_on_batches, recover_on_data, recovery_settings
from sana_dit import SanaTransformer
from sana_scale import BlockImportance, PrunePlan, prune_depth
from sana_scale.depth import (
    Cost,
    Stage,
    apply_plan,
    evenly_spaced,
    forward_cost,
    iterative_removal_order,
    leave_one_out,
    random_blocks,
    removal_order,
    without_window,
    write_report,
)
from sana_scale.files import write_json

Selector = Literal["importance", "iterative", "leave-one-out", "window", "uniform", "random"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How blocks are chosen.

    Attributes:
        keep: how many stay, or which.
        selector: "importance" removes those of lowest block importance at once; "iterative" measures anew after each;
            "leave-one-out" goes by the velocity error without each block; "window" removes consecutive ones; "uniform"
            and "random" are baselines.
        protect_head, protect_tail: first and last blocks that stay in any case.
        seed: of "random".
        scores: one per block, instead of importance.
    """

    keep: int | tuple[int, ...]
    selector: Selector = "importance"
    protect_head: int = 0
    protect_tail: int = 0
    seed: int = 0
    scores: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        protected = self.protect_head or self.protect_tail
        if protected and (self.selector in ("uniform", "random") or not isinstance(self.keep, int)):
            raise ValueError(
                "blocks can be protected where they are ranked: not in a list, and not by uniform or random"
            )
        if self.selector != "importance" and not isinstance(self.keep, int):
            raise ValueError(f"the blocks are listed and the selector is {self.selector!r}: leave one out")
        if self.scores is not None and self.selector != "importance":
            raise ValueError(f"scores are given and the selector is {self.selector!r}: it makes its own, leave one out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is asked of `prune_folder`.

    Attributes:
        choice: how blocks are chosen, or the file of a plan.
        calibration: what is drawn. Importance is measured on all of it, its last fifth is what the report scores, and
            recovery sees only the rest.
        recover: steps on the calibration's pictures, or a run file; None does not recover.
        source: what the pipeline was loaded from.
    """

    choice: Choice | Path
    calibration: Calibration
    recover: str | None = None
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What `prune_folder` did: the plan, and the model's states from unpruned to recovered."""

    plan: PrunePlan
    stages: Sequence[Stage]


def prune_folder(pipeline: SanaPipeline, destination: Path, task: Task, *, progress: bool = True) -> Pruned:
    """Prune a pipeline, recover it if so asked, and save it as the folder `destination`, the report in `pruning/`.

    The recovery's run is beside it, `destination` with ".recovery" after its name. Called again after a kill this
    measures anew and goes on with the recovery. The pipeline's index is written last.

    Raises:
        ValueError: blocks, scores, plan or run file do not fit the model, or a recovery that has begun there is another
            plan's.
        InterruptedError: recovery was stopped by SIGTERM; the same call goes on.
    """
    folder, run = destination / "pruning", destination.with_name(f"{destination.name}.recovery")
    learning, scoring = _divided(task.calibration)
    settings = None
    if task.recover is not None and not task.recover.isdecimal():
        settings = recovery_settings(Path(task.recover), task.source, run)
    elif task.recover is not None and pipeline.is_sprint:
        raise ValueError("a Sprint model is distilled from another: prune that one, recover it and distill it again")
    unpruned = None if task.recover is None else copy.deepcopy(pipeline.transformer)
    error = VelocityError(pipeline, scoring, progress=progress)
    stages = [_stage("unpruned", pipeline, error)]
    plan, importance, samples = _pruned(pipeline, task, progress=progress)
    stages.append(_stage("pruned", pipeline, error))
    if task.recover is not None:
        assert unpruned is not None
        if settings is None:
            drawn = samples[: len(learning.prompts)] or list(
                draw_samples(_with(pipeline, unpruned), learning, progress=progress)
            )
            batches = DrawnSamples(drawn, empty_caption(pipeline), seed=task.calibration.seed)
            recover = recover_on_batches(
                batches,
                run,
                shift=pipeline.facts.flow_shift,
                steps=int(task.recover),
                task=0.0,
                data=learning.description,
                progress=progress,
            )
        else:
            recover = recover_on_data(settings, pipeline)
        steps = int(task.recover) if settings is None else settings.train.steps
        dtype = next(unpruned.parameters()).dtype
        pipeline.transformer = recover(pipeline.transformer, unpruned, plan).to(dtype)
        stages.append(_stage(f"recovered, {steps} steps", pipeline, error))
    write_report(folder, plan, stages, importance=importance)
    plan.save(folder / "plan.json")
    write_json(folder / PARENT, {"parent": public_name(task.source)})
    pipeline.save_pretrained(destination)
    return Pruned(plan=plan, stages=stages)


def prune_pipeline(
    pipeline: SanaPipeline, choice: Choice, calibration: Calibration, *, progress: bool = True
) -> tuple[PrunePlan, BlockImportance | None, list[Sample]]:
    """Remove blocks from a pipeline's transformer, in place.

    Returns the plan, the importance it was measured by, None where scores were given, and the samples drawn for it.

    Raises:
        ValueError: there is no such number of blocks, or the scores are of another model.
    """
    importance, samples = None, list[Sample]()
    if choice.scores is None:
        importance, samples = measure_importance(pipeline, calibration, progress=progress)
    keep: int | Sequence[int] = choice.keep
    words = "lowest block importance, at once" if importance else "lowest given scores, at once"
    if not isinstance(choice.keep, int) or choice.selector != "importance":
        keep, words = _chosen(pipeline, choice, calibration, progress=progress)
    _, plan = prune_depth(
        pipeline.transformer,
        keep=keep,
        importance=choice.scores or importance,
        protect_head=choice.protect_head if isinstance(keep, int) else 0,
        protect_tail=choice.protect_tail if isinstance(keep, int) else 0,
        selector=words,
    )
    return plan, importance, samples


def read_scores(path: Path) -> tuple[float, ...]:
    """The scores of blocks in a plan that an earlier pruning left, or in a JSON list.

    Raises:
        ValueError: the file is neither, or a plan without scores.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    scores = content.get("scores") if isinstance(content, dict) else content
    if not isinstance(scores, list) or not all(isinstance(score, int | float) for score in scores):
        raise ValueError(f"{path} has no scores: give a plan.json that a pruning wrote, or a JSON list of numbers")
    return tuple(map(float, scores))


def _pruned(
    pipeline: SanaPipeline, task: Task, *, progress: bool
) -> tuple[PrunePlan, BlockImportance | None, list[Sample]]:
    if isinstance(task.choice, Choice):
        return prune_pipeline(pipeline, task.choice, task.calibration, progress=progress)
    plan = PrunePlan.load(task.choice)
    apply_plan(pipeline.transformer, plan)
    return plan, None, []


def _divided(calibration: Calibration) -> tuple[Calibration, Calibration]:
    """What recovery may learn from, and the last fifth."""
    prompts = calibration.prompts
    if len(prompts) < 2:
        raise ValueError(
            "calibration has one prompt: give at least two, better 100, since the last fifth is for scoring"
        )
    first = len(prompts) - max(1, len(prompts) // 5)
    scoring = replace(calibration, prompts=prompts[first:], seed=calibration.seed + first)
    return replace(calibration, prompts=prompts[:first]), scoring


def _with(pipeline: SanaPipeline, transformer: SanaTransformer) -> SanaPipeline:
    other = copy.copy(pipeline)
    other.transformer = transformer
    return other


def _stage(name: str, pipeline: SanaPipeline, error: VelocityError) -> Stage:
    scores = {"velocity error": error(pipeline.transformer)}
    return Stage(name=name, cost=_forward_cost(pipeline), scores=scores)


def _chosen(
    pipeline: SanaPipeline, choice: Choice, calibration: Calibration, *, progress: bool
) -> tuple[Sequence[int], str]:
    model, keep = pipeline.transformer, choice.keep
    if not isinstance(keep, int):
        return keep, "listed"
    depth = len(model.blocks)
    head, tail = choice.protect_head, choice.protect_tail
    if choice.selector == "uniform":
        return evenly_spaced(depth, keep), "evenly spaced"
    if choice.selector == "random":
        return random_blocks(depth, keep, seed=choice.seed), f"random, seed {choice.seed}"
    if keep == depth:
        return range(depth), "all"
    if choice.selector == "window":
        importance, _ = measure_importance(pipeline, calibration, window=depth - keep, branches=(), progress=progress)
        return without_window(
            importance, protect_head=head, protect_tail=tail
        ), "the consecutive blocks of lowest importance"
    if choice.selector == "iterative":
        order = iterative_removal_order(
            model,
            lambda blocks: measure_importance(pipeline, calibration, branches=(), progress=False)[0].values,
            keep=keep,
            protect_head=head,
            protect_tail=tail,
            progress=progress,
        )
        return order.kept(keep), "lowest block importance, measured after each removal"
    error = VelocityError(pipeline, calibration, progress=progress)
    rises = leave_one_out(model, lambda: error(model), progress=progress)
    return removal_order(rises, protect_head=head, protect_tail=tail).kept(keep), "lowest velocity error without it"


def _forward_cost(pipeline: SanaPipeline) -> Cost:
    """Of one evaluation for one picture, with both halves of guidance where there are two."""
    model: SanaTransformer = pipeline.transformer
    parameter = next(model.parameters())
    rows, side = 1 if pipeline.is_sprint else 2, model.config.sample_size
    captions, _ = pipeline.encode([""] * rows, scale=1.0)
    latents = parameter.new_zeros(rows, model.config.in_channels, side, side)
    timestep = parameter.new_full((rows,), 0.5 if pipeline.is_sprint else 500.0)
    guidance = (parameter.new_ones(rows),) if pipeline.is_sprint else ()
    return forward_cost(model, lambda: model(latents, timestep, *captions, *guidance), blocks=len(model.blocks))

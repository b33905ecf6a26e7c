"""A pipeline with fewer blocks: measure, choose, remove, recover, and report all of it (SANA-1.5, depth pruning)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sana.catalog import public_name
from sana.pipeline import SanaPipeline
from sana.pruning.calibration import Calibration, Sample, VelocityError, draw_samples, measure_importance
from sana.pruning.choice import Choice, check_choice, chosen_blocks
from sana.pruning.recovery import (
    DrawnSamples,
    Recover,
    empty_caption,
    recover_on_batches,
    recover_on_data,
    recovery_settings,
)
from sana.publishing.model_card import PARENT
from sana.training.settings import RunSettings
from sana_dit import SanaTransformer
from sana_scale import BlockImportance, PrunePlan, prune_depth
from sana_scale.depth import Cost, Stage, forward_cost, write_report
from sana_scale.files import write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneRequest:
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


def prune_folder(pipeline: SanaPipeline, destination: Path, request: PruneRequest, *, progress: bool = True) -> Pruned:
    """Prune a pipeline, recover it if so asked, and save it as the folder `destination`, the report in `pruning/`.

    The recovery's run is beside it, `destination` with ".recovery" after its name. Called again after a kill this
    measures anew and goes on with the recovery. The pipeline's index is written last.

    Raises:
        ValueError: blocks, scores, plan or run file do not fit the model, which is said before anything is drawn, or a
            recovery that has begun there is another plan's.
        InterruptedError: recovery was stopped by SIGTERM; the same call goes on.
    """
    choice = _checked(request.choice, len(pipeline.transformer.blocks))
    learning, scoring = _divided(request.calibration)
    run_dir = destination.with_name(f"{destination.name}.recovery")
    recipe = _recipe(pipeline, request, run_dir)
    unpruned = None if recipe is None else copy.deepcopy(pipeline.transformer)
    error = VelocityError(pipeline, scoring, progress=progress)
    stages = [_stage("unpruned", pipeline, error)]
    plan, importance, samples = _pruned(pipeline, choice, request.calibration, progress=progress)
    stages.append(_stage("pruned", pipeline, error))
    if unpruned is not None:
        if isinstance(recipe, RunSettings):
            steps, recover = recipe.train.steps, recover_on_data(recipe, pipeline)
        else:
            assert recipe is not None
            its_own = _with(pipeline, unpruned)
            drawn = samples[: len(learning.prompts)] or list(draw_samples(its_own, learning, progress=progress))
            steps, recover = recipe, _recover_on_pictures(drawn, its_own, learning, recipe, run_dir, progress=progress)
        dtype = next(unpruned.parameters()).dtype
        pipeline.transformer = recover(pipeline.transformer, unpruned, plan).to(dtype)
        stages.append(_stage(f"recovered, {steps} steps", pipeline, error))
    folder = destination / "pruning"
    write_report(folder, plan, stages, importance=importance)
    plan.save(folder / "plan.json")
    write_json(folder / PARENT, {"parent": public_name(request.source)})
    pipeline.save_pretrained(destination)
    return Pruned(plan=plan, stages=stages)


def prune_pipeline(
    pipeline: SanaPipeline, choice: Choice, calibration: Calibration, *, progress: bool = True
) -> tuple[PrunePlan, BlockImportance | None, list[Sample]]:
    """Remove blocks from a pipeline's transformer, in place.

    Returns the plan, the importance it was measured by, None where scores were given, and the samples drawn for it.

    Raises:
        ValueError: there is no such number of blocks, or the scores are of another model: before anything is drawn.
    """
    check_choice(choice, len(pipeline.transformer.blocks))
    importance, samples = None, list[Sample]()
    if choice.scores is None:
        importance, samples = measure_importance(pipeline, calibration, progress=progress)
    keep: int | Sequence[int] = choice.keep
    words = "lowest block importance, at once" if importance else "lowest given scores, at once"
    if not isinstance(choice.keep, int) or choice.selector != "importance":
        keep, words = chosen_blocks(pipeline, choice, calibration, progress=progress)
    _, plan = prune_depth(
        pipeline.transformer,
        keep=keep,
        importance=choice.scores or importance,
        protect_head=choice.protect_head if isinstance(keep, int) else 0,
        protect_tail=choice.protect_tail if isinstance(keep, int) else 0,
        selector=words,
    )
    return plan, importance, samples


def _checked(choice: Choice | Path, depth: int) -> Choice | PrunePlan:
    """The choice, or the plan that a file holds, if it is one for a model of `depth` blocks."""
    if isinstance(choice, Choice):
        check_choice(choice, depth)
        return choice
    plan = PrunePlan.load(choice)
    if plan.depth != depth:
        raise ValueError(f"{choice} is a plan for {plan.depth} blocks, and the model has {depth}: give its own plan")
    return plan


def _recipe(pipeline: SanaPipeline, request: PruneRequest, run_dir: Path) -> RunSettings | int | None:
    """What recovery follows: a run file, or a number of steps on the calibration's pictures."""
    if request.recover is None:
        return None
    if not request.recover.isdecimal():
        return recovery_settings(Path(request.recover), request.source, run_dir)
    if pipeline.is_sprint:
        raise ValueError("a Sprint model is distilled from another: prune that one, recover it and distill it again")
    return int(request.recover)


def _pruned(
    pipeline: SanaPipeline, choice: Choice | PrunePlan, calibration: Calibration, *, progress: bool
) -> tuple[PrunePlan, BlockImportance | None, list[Sample]]:
    if isinstance(choice, Choice):
        return prune_pipeline(pipeline, choice, calibration, progress=progress)
    choice.apply(pipeline.transformer)
    return choice, None, []


def _recover_on_pictures(
    drawn: Sequence[Sample],
    unpruned: SanaPipeline,
    calibration: Calibration,
    steps: int,
    run_dir: Path,
    *,
    progress: bool,
) -> Recover:
    return recover_on_batches(
        DrawnSamples(drawn, empty_caption(unpruned), seed=calibration.seed),
        run_dir,
        shift=unpruned.facts.flow_shift,
        steps=steps,
        flow_weight=0.0,
        data=calibration.description,
        progress=progress,
    )


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


def _forward_cost(pipeline: SanaPipeline) -> Cost:
    """Of one evaluation for one picture, with both halves of guidance where there are two."""
    model: SanaTransformer = pipeline.transformer
    parameter = next(model.parameters())
    rows, side = 1 if pipeline.is_sprint else 2, model.config.sample_size
    captions, _ = pipeline.encode([""] * rows, guidance_scale=1.0)
    latents = parameter.new_zeros(rows, model.config.in_channels, side, side)
    timestep = parameter.new_full((rows,), 0.5 if pipeline.is_sprint else 500.0)
    guidance = (parameter.new_ones(rows),) if pipeline.is_sprint else ()
    return forward_cost(model, lambda: model(latents, timestep, *captions, *guidance), blocks=len(model.blocks))

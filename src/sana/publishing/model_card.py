"""The card of a model, whose every number is counted from its files or read from a result file."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sana.model_facts import ModelFacts, model_facts
from sana.parity import STEPS_WITH_A_MIDDLE, Parity, weights_hash
from sana.pipeline_folder import INDEX, read_json
from sana.publishing.part_card import render_part_card
from sana.publishing.stated_facts import only_variant
from sana.publishing.upload import check_hub_id

PROMPT = "two red apples left of a cat"
PLANS = {"growth.json": "grown", "plan.json": "pruned"}  # as `sana grow` and `sana prune` leave them
PARENT = "parent.json"  # beside a plan: {"parent": name of the model that it was made from}


def render_card(
    folder: Path,
    repo: str,
    *,
    licence: str,
    licence_name: str | None = None,
    licence_link: str | None = None,
    what: str | None = None,
    limits: str | None = None,
    base_model: str | None = None,
    results: Path | None = None,
    training_data: str | None = None,
    parity: Path | None = None,
) -> str:
    """Returns the text of a card.

    Args:
        folder: A pipeline as `SanaPipeline.save_pretrained` writes it, or the folder of one transformer, autoencoder or
            judge; plans of growth and pruning in it are told.
        repo: Hub id that it gets.
        licence: Of the weights, as the Hub spells it ("apache-2.0", "other", ...).
        licence_name: Where it is "other".
        licence_link: Where it is "other".
        what: A sentence on what the model draws; None says only what it is.
        limits: What it cannot do; None says that nobody has looked.
        base_model: Hub id of the model that it was made from; None is the one that its plans name, if any.
        results: A table that `sana evaluate` wrote.
        training_data: What it was trained on; None says that it is not stated.
        parity: What `sana parity --out` wrote of these weights; None says that it was not measured.

    Raises:
        FileNotFoundError: There is no such folder, it holds no model, or there is no such result file.
        ValueError: A result file is not what it should be, results are given for a model that draws nothing, or
            base_model is not a Hub id.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give one that save_pretrained wrote")
    if base_model is not None:
        check_hub_id(base_model, name="base_model")
    rows, settings = ([], "") if results is None else _read_results(results)
    parents = _parents(folder)
    lineage = _lineage(parents, base_model)
    data = _card_data(
        repo,
        rows,
        licence=licence,
        licence_name=licence_name,
        licence_link=licence_link,
        base_model=base_model or _only_parent(parents),
    )
    if not (folder / INDEX).is_file():
        if results is not None or parity is not None:
            raise ValueError(f"{folder} is not a pipeline: results and parity belong to pipelines, leave them out")
        told = {"what": what, "limits": limits, "training_data": training_data}
        return render_part_card(folder, repo, header=data, lineage=lineage, **told)
    facts = model_facts(str(folder))
    text = ModelCard.from_template(
        data,
        template_path=str(files("sana") / "model_cards" / "pipeline.md"),
        title=_title(repo),
        repo=repo,
        prompt=PROMPT,
        what=what or f"A Sana pipeline of {facts.parameters:,} parameters: {facts.components['transformer'].shape}.",
        lineage=lineage,
        results=rows,
        settings=settings,
        training_data=training_data or "Not stated.",
        parity="On these weights it was not measured." if parity is None else _told(parity, folder),
        limits=limits or "Nobody has looked for them yet.",
        licence_text=f"The weights: {licence_name or licence}" + (f", {licence_link}." if licence_link else "."),
        **_template_values(folder, facts),
    ).content
    return str(text)


def _title(repo: str) -> str:
    return repo.rpartition("/")[2]


def _card_data(
    repo: str,
    rows: list[dict[str, Any]],
    *,
    licence: str,
    licence_name: str | None,
    licence_link: str | None,
    base_model: str | None,
) -> ModelCardData:
    """The header of the card: what the Hub itself reads."""
    return ModelCardData(
        license=licence,
        license_name=licence_name,
        license_link=licence_link,
        library_name="sana-suite",
        pipeline_tag="text-to-image",
        tags=["sana", "diffusers", "text-to-image"],
        base_model=base_model,
        model_name=_title(repo) if rows else None,
        eval_results=[_hub_result(row) for row in rows if row["is_standard"]] or None,
    )


def _template_values(folder: Path, facts: ModelFacts) -> dict[str, Any]:
    """What the files of a pipeline fill into the text of its card."""
    diffusers_class = (read_json(folder, INDEX) or {}).get("_class_name", "SanaPipeline")
    return {
        "components": facts.components,
        "width": facts.width,
        "height": facts.height,
        "steps": facts.steps,
        "guidance_scale": facts.guidance_scale,
        "flow_shift": facts.flow_shift,
        "compat": facts.compat,
        "dtype": facts.dtype or "float32",
        "gflop": f"{facts.flops_per_image / 1e9:,.0f}",
        "variant": only_variant(folder),
        "diffusers_class": diffusers_class,
        "diffusers_arguments": _diffusers_arguments(facts, sprint=diffusers_class == "SanaSprintPipeline"),
    }


def _diffusers_arguments(facts: ModelFacts, *, sprint: bool) -> str:
    """What diffusers cannot know: a size or number of steps that is not public, captions without the instruction."""
    arguments = ""
    if facts.bins is None:
        arguments += f", height={facts.height}, width={facts.width}, use_resolution_binning=False"
    if not facts.chi:
        arguments += ", complex_human_instruction=None"
    if sprint and facts.steps != STEPS_WITH_A_MIDDLE:
        arguments += ", intermediate_timesteps=None"
    return arguments + f", num_inference_steps={facts.steps}, guidance_scale={facts.guidance_scale}"


def _only_parent(parents: list[dict[str, str | None]]) -> str | None:
    """The Hub id that the plans name, where they name one alone."""
    hub_ids = {parent["name"] for parent in parents if str(parent["name"]).count("/") == 1}
    return hub_ids.pop() if len(hub_ids) == 1 else None


def _parents(folder: Path) -> list[dict[str, str | None]]:
    """What was done to the transformer, by which plan, and to which weights, as the plans and parent.json say."""
    parents = []
    for name, done in PLANS.items():
        for path in sorted(folder.rglob(name)):
            plan = json.loads(path.read_text(encoding="utf-8"))
            if "model" not in plan:
                continue
            parent = (read_json(path.parent, PARENT) or {}).get("parent") or None
            where = path.relative_to(folder).as_posix()
            parents.append({"name": parent, "hash": plan["model"], "done": done, "plan": where})
    return parents


def _lineage(parents: list[dict[str, str | None]], base_model: str | None) -> list[str]:
    lines = [] if base_model is None else [f"Made from {_linked(base_model)}."]
    for parent in parents:
        weights = f"weights with the hash `{parent['hash']}`"
        source = weights if parent["name"] is None else f"{_linked(parent['name'])} ({weights})"
        lines.append(f"Its transformer was {parent['done']} from {source}: [{parent['plan']}]({parent['plan']}).")
    return lines


def _linked(model: str) -> str:
    return f"[{model}](https://huggingface.co/{model})" if model.count("/") == 1 else f"`{model}`"


def _read_results(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Rows of name and value from a table of tasks, and the settings in words.

    The mean of some tasks only is named so, and is not one of the benchmark's standard results.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        tasks = {str(task): float(score) for task, score in table["tasks"].items()}
        overall, absent = float(table["overall"]), list(table.get("tasks_absent") or [])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a table of results ({error!r}): give what `sana evaluate --out` wrote"
        ) from error
    settings = {key: value for key, value in (table.get("settings") or {}).items() if value is not None}
    name = table.get("benchmark", "GenEval")
    heading = f"mean of {len(tasks)} of {len(tasks) + len(absent)} tasks, no {name} score" if absent else "overall"
    rows = [
        {"benchmark": name, "name": task, "value": f"{score:.3f}", "is_standard": task != heading or not absent}
        for task, score in (*tasks.items(), (heading, overall))
    ]
    return rows, ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())


def _told(parity: Path, folder: Path) -> str:
    """What a comparison with diffusers found, if it was of these weights."""
    found = Parity.read(parity)
    if found.weights != weights_hash(folder):
        raise ValueError(f"{parity} is of other weights than those in {folder}: run `sana parity {folder}`")
    how = f"{found.dtype}, {found.sampling.steps} steps, {found.device}, diffusers {found.versions['diffusers']}"
    return f"Measured with `sana parity` on {found.date} ({how}): {found.in_words}"


def _hub_result(row: dict[str, Any]) -> EvalResult:
    return EvalResult(
        task_type="text-to-image",
        dataset_type=row["benchmark"].lower(),
        dataset_name=row["benchmark"],
        metric_type=row["name"],
        metric_value=float(row["value"]),
    )

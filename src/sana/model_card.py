"""The card of a pipeline, whose every number is counted from its files or read from a result file."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sana.model_facts import model_facts
from sana.pipeline_folder import INDEX, read_json

PROMPT = "two red apples left of a cat"
PLANS = {"growth.json": "grown", "plan.json": "pruned"}  # as `sana grow` and `sana prune` leave them


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
) -> str:
    """Returns the text of a card.

    Args:
        folder: A pipeline as `SanaPipeline.save_pretrained` writes it; its plans of growth and pruning are told.
        repo: Hub id that it gets.
        licence: Of the weights, as the Hub spells it ("apache-2.0", "other", ...).
        licence_name: Where it is "other".
        licence_link: Where it is "other".
        what: A sentence on what the model draws; None says only what it is.
        limits: What it cannot do; None says that nobody has looked.
        base_model: Hub id of the model that it was made from.
        results: A table that `sana evaluate` wrote.

    Raises:
        FileNotFoundError: The folder is no pipeline, or there is no such result file.
        ValueError: The result file is not a table of results.
    """
    facts = model_facts(str(folder))
    rows, settings = ([], "") if results is None else _read_results(results)
    index = read_json(folder, INDEX) or {}
    title = repo.rpartition("/")[2]
    data = ModelCardData(
        license=licence,
        license_name=licence_name,
        license_link=licence_link,
        library_name="sana-suite",
        pipeline_tag="text-to-image",
        tags=["sana", "diffusers", "text-to-image"],
        base_model=base_model,
        model_name=title if rows else None,
        eval_results=[_hub_result(row) for row in rows] or None,
    )
    transformer = facts["components"]["transformer"]
    text = ModelCard.from_template(
        data,
        template_path=str(files("sana") / "model_cards" / "pipeline.md"),
        title=title,
        repo=repo,
        prompt=PROMPT,
        what=what or f"A Sana pipeline of {facts['parameters']:,} parameters: {transformer['shape']}.",
        components=_components(facts),
        gflop=f"{facts['flops_per_picture'] / 1e9:,.0f}",
        diffusers_class=index.get("_class_name", "SanaPipeline"),
        diffusers_arguments=_diffusers_arguments(folder, facts),
        lineage=_lineage(folder, base_model),
        results=rows,
        settings=settings,
        limits=limits or "Nobody has looked for them yet.",
        licence_text=f"The weights: {licence_name or licence}" + (f", {licence_link}." if licence_link else "."),
        **{name: facts[name] for name in ("width", "height", "steps", "guidance_scale", "flow_shift")},
    ).content
    return str(text)


def _components(facts: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"name": name, "shape": part["shape"], "parameters": f"{part['parameters']:,}"}
        for name, part in facts["components"].items()
    ]


def _diffusers_arguments(folder: Path, facts: dict[str, Any]) -> str:
    """What diffusers cannot know of a size that is not public, and of captions without the instruction."""
    arguments = ""
    if facts["bins"] is None:
        arguments += f", height={facts['height']}, width={facts['width']}, use_resolution_binning=False"
    if not facts["chi"]:
        arguments += ", complex_human_instruction=None"
    return arguments + f", num_inference_steps={facts['steps']}, guidance_scale={facts['guidance_scale']}"


def _lineage(folder: Path, base_model: str | None) -> list[str]:
    lines = [] if base_model is None else [f"Made from [{base_model}](https://huggingface.co/{base_model})."]
    for name, done in PLANS.items():
        for path in sorted(folder.rglob(name)):
            plan = json.loads(path.read_text(encoding="utf-8"))
            if "model" not in plan:
                continue
            where = path.relative_to(folder).as_posix()
            lines.append(
                f"Its transformer was {done} from weights with the hash `{plan['model']}`: [{where}]({where})."
            )
    return lines


def _read_results(path: Path) -> tuple[list[dict[str, str]], str]:
    """Rows of name and value from a table of tasks, and the settings in words."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        tasks = {str(task): float(score) for task, score in table["tasks"].items()} | {
            "overall": float(table["overall"])
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no table of results ({error!r}): give what `sana evaluate --out` wrote") from error
    settings = {key: value for key, value in (table.get("settings") or {}).items() if value is not None}
    name = table.get("benchmark", "GenEval")
    rows = [{"benchmark": name, "name": task, "value": f"{score:.3f}"} for task, score in tasks.items()]
    return rows, ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())


def _hub_result(row: dict[str, str]) -> EvalResult:
    return EvalResult(
        task_type="text-to-image",
        dataset_type=row["benchmark"].lower(),
        dataset_name=row["benchmark"],
        metric_type=row["name"],
        metric_value=float(row["value"]),
    )

"""The cascade: one model trained at rising resolution, stage after stage, from one TOML file (SANA)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sana.training.model import model_config
from sana.training.run_file import Section, fill, parsed_change, read_toml
from sana.training.settings import POSITIONS, RunSettings
from sana.training.settings_reading import settings_of

STAGES = "stage"
_SECTIONS = {section.name for section in fields(RunSettings)} | {"cascade"}


@dataclass(frozen=True, slots=True)
class Stage:
    """One training run of a cascade; all but the first go on from the model of the one before."""

    name: str
    settings: RunSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeSettings:
    """[cascade]: the folder that holds a run folder for each stage."""

    run_dir: str


@dataclass(frozen=True, slots=True)
class Cascade:
    """A folder and the stages to train in it, in order."""

    run_dir: Path
    stages: tuple[Stage, ...]


def is_cascade(path: str | Path) -> bool:
    """Whether a run file describes stages; raises as `read_toml` does."""
    return STAGES in read_toml(path)


def read_cascade(path: str | Path, changes: Sequence[str] = ()) -> Cascade:
    """The cascade of a run file: sections that all stages share, and a [[stage]] for each with what is its own.

    A stage has a `name` and the sections of a run, as in `train.steps = 1000` or a table [stage.train] below it, whose
    keys replace the shared ones. The first stage starts from the shared [model]. The others take up the weights of the
    stage before, and their [model] may only say `weights` and, for another resolution, `sample_size` and
    `interpolation_scale`. What a stage does not say of these two stays as it was in the stage before.

    Args:
        path: a TOML file.
        changes: settings that replace those of the file, each as "section.key=value" for all stages,
            "stage.section.key=value" for the stage of that name, or "cascade.run_dir=value".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a cascade, stages have no name or the same, or the settings of one are wrong; says which.
    """
    shared = read_toml(path)
    given, cascade = shared.pop(STAGES, None), shared.pop("cascade", None)
    if not isinstance(given, list) or not given:
        raise ValueError(f"{path} has no [[stage]]: a cascade has one for each resolution, in order")
    for name, section in [*shared.items(), ("cascade", cascade)]:
        if not isinstance(section, dict):
            raise ValueError(f"{path} has {name} {section!r}; it must be a section, [{name}]")
    names = _names(given, str(path))
    own = {name: _sections(stage, str(path)) for name, stage in zip(names, given, strict=True)}
    for change in changes:
        _apply(change, cascade, shared, own)
    run_dir = Path(fill(CascadeSettings, cascade, where="[cascade]").run_dir)
    stages: list[Stage] = []
    for number, (name, stage) in enumerate(own.items(), 1):
        where = f"{path}, stage {name}:"
        sections = _merged(shared, stage)
        try:
            if "lora" in sections:
                raise ValueError("has [lora], which trains one adapter in a run of its own: leave it out of a cascade")
            if stages:
                _check_no_growth(stage)
                sections.pop("growth", None)
                before = Path(stages[-1].settings.train.run_dir)
                sections["model"] = _going_on(sections.get("model", {}), stage.get("model", {}), before / "model")
            sections["train"] = _placed(sections.get("train", {}), run_dir / f"{number}-{name}")
            stages.append(Stage(name, settings_of(sections, where=where)))
        except ValueError as error:
            raise ValueError(str(error) if str(error).startswith(where) else f"{where} {error}") from error
    return Cascade(run_dir, tuple(stages))


def planned(cascade: Cascade) -> list[Stage]:
    """The stages with the shape of the model in each, which the checkpoints of earlier stages need not be there for."""
    config, stages = None, []
    for stage in cascade.stages:
        model = stage.settings.model
        config = model_config(model) if config is None else replace(config, **model.positions)
        shaped = replace(model, config=config, positions={})
        stages.append(Stage(stage.name, replace(stage.settings, model=shaped)))
    return stages


def _names(stages: Sequence[Any], path: str) -> list[str]:
    names: list[str] = []
    for number, stage in enumerate(stages, 1):
        name = stage.get("name") if isinstance(stage, dict) else None
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"{path} has {name!r} as the name of stage {number}; give letters, digits, - and _")
        if name in _SECTIONS:
            raise ValueError(f"{path} has {name!r} as the name of stage {number}, which is a section: give another")
        names.append(name)
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has stages {', '.join(names)}; no two may have one name")
    return names


def _sections(stage: Mapping[str, Any], path: str) -> dict[str, Section]:
    """What is a stage's own."""
    sections = {name: section for name, section in stage.items() if name != "name"}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ValueError(f"{path} has {name} in stage {stage['name']}; put it where it belongs, as in train.{name}")
    return sections


def _apply(change: str, cascade: Section, shared: dict[str, Section], own: Mapping[str, dict[str, Section]]) -> None:
    """Apply one --set change: to the named stage, or to the shared section, dropping the key from every stage."""
    name, key, value = parsed_change(change)
    if name == "cascade":
        cascade[key] = value
    elif name in own:
        section, _, key = key.partition(".")
        if not key:
            raise ValueError(f"--set is {change!r}; of one stage give stage.section.key=value")
        own[name].setdefault(section, {})[key] = value
    else:
        shared.setdefault(name, {})[key] = value
        for sections in own.values():
            sections.get(name, {}).pop(key, None)


def _merged(shared: Mapping[str, Section], own: Mapping[str, Section]) -> dict[str, Section]:
    """Sections of which those of a stage replace single keys."""
    return {name: {**shared.get(name, {}), **own.get(name, {})} for name in {**shared, **own}}


def _check_no_growth(own: Mapping[str, Section]) -> None:
    if "growth" in own:
        raise ValueError("has [growth], which warms up what the first stage begins with: put it there")


def _going_on(section: Section, own: Section, model: Path) -> Section:
    """[model] of a stage that takes up the weights of the one before."""
    if wrong := [key for key in own if key not in ("weights", "kernels", *POSITIONS)]:
        raise ValueError(
            f"[model] has {', '.join(wrong)}; it continues the stage before, so only weights, "
            f"kernels, {' and '.join(POSITIONS)} may be given"
        )
    kept = {key: value for key, value in own.items() if key in POSITIONS}
    return kept | {key: section[key] for key in ("weights", "kernels") if key in section} | {"init": str(model)}


def _placed(section: Section, run_dir: Path) -> Section:
    if "run_dir" in section:
        raise ValueError(f"[train] has run_dir {section['run_dir']!r}; the folder of a cascade is [cascade] run_dir")
    return section | {"run_dir": str(run_dir)}

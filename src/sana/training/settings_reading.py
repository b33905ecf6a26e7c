"""A run file's sections read into settings: what is unknown, missing or of another type is named."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import sana_dit
from sana.training.run_file import Section, check_keys, check_sections, fill, filled_preset, read_run_file, typed
from sana.training.settings import (
    OPTIMIZERS,
    POSITIONS,
    CheckpointSettings,
    DataSettings,
    GrowthSettings,
    LoraSettings,
    ModelSettings,
    ObjectiveSettings,
    OptimizerSettings,
    RunSettings,
    SampleSettings,
    ValidationSettings,
)
from sana_dit import SanaConfig
from sana_train import TrainConfig

PRESETS: dict[str, SanaConfig] = {
    name: preset for name in sana_dit.__all__ if isinstance(preset := getattr(sana_dit, name), SanaConfig)
}


def read_settings(path: str | Path, changes: Sequence[str] = ()) -> RunSettings:
    """The settings of a run file, some of them changed; see `read_run_file`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a section or key is unknown, missing, contradicts another, or has a wrong value; says which.
    """
    return settings_of(read_run_file(path, changes), where=str(path))


def settings_of(sections: Mapping[str, Section], *, where: str) -> RunSettings:
    """The settings of the sections of a run file, which messages call `where`; raises as `read_settings` does."""
    check_sections(sections, RunSettings, needed=("train", "model", "optimizer", "data"), where=where)
    optional = {
        "validation": ValidationSettings,
        "captions": CheckpointSettings,
        "autoencoder": CheckpointSettings,
        "samples": SampleSettings,
        "growth": GrowthSettings,
        "lora": LoraSettings,
    }
    return RunSettings(
        train=fill(TrainConfig, sections["train"], where="[train]"),
        model=_model(sections["model"]),
        optimizer=_optimizer(sections["optimizer"]),
        objective=fill(ObjectiveSettings, sections.get("objective", {}), where="[objective]"),
        data=fill(DataSettings, sections["data"], where="[data]"),
        **{name: fill(kind, sections[name], where=f"[{name}]") for name, kind in optional.items() if name in sections},
    )


def _model(section: Section) -> ModelSettings:
    shape_keys = [key.name for key in fields(SanaConfig)]
    check_keys(section, ["init", "preset", "weights", "kernels", *shape_keys], where="[model]")
    shape = {key: section[key] for key in section if key in shape_keys}
    rest = {key: section[key] for key in section if key in ("init", "weights", "kernels")}
    settings = fill(ModelSettings, rest, where="[model]")
    if settings.init is None:
        return replace(settings, config=_config(section.get("preset"), shape))
    if given := [key for key in section if key == "preset" or (key in shape and key not in POSITIONS)]:
        raise ValueError(
            f"[model] has init and {', '.join(given)}: a checkpoint brings its own shape, leave these out (only "
            f"{' and '.join(POSITIONS)} may be others)"
        )
    hints = get_type_hints(SanaConfig)
    positions = {key: typed(value, hints[key], name=f"[model] {key}") for key, value in shape.items()}
    return replace(settings, positions=positions)


def _config(preset: Any, shape: Section) -> SanaConfig:
    if preset is not None:
        return filled_preset({"preset": preset} | shape, PRESETS, where="[model]")
    if not shape:
        known = ", ".join(PRESETS)
        raise ValueError(f"[model] needs init (a checkpoint), preset (one of {known}) or fields such as num_layers")
    return fill(SanaConfig, shape, where="[model]")


def _optimizer(section: Section) -> OptimizerSettings:
    kind = section.get("kind")
    if not isinstance(kind, str) or kind not in OPTIMIZERS:
        given = "lacks kind" if kind is None else f"kind is {kind!r}"
        raise ValueError(f"[optimizer] {given}; it must be one of {', '.join(map(repr, OPTIMIZERS))}")
    rest = {key: value for key, value in section.items() if key != "kind"}
    return fill(OPTIMIZERS[kind], rest, where=f"[optimizer] of kind {kind!r}")

"""A run's TOML file: its sections, changes to them from the command line, and dataclasses filled from them."""

import difflib
import math
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

NONE = "none"  # TOML has no null: this word stands where a setting may be absent

Section = dict[str, Any]
Filled = TypeVar("Filled")


def read_run_file(path: str | Path, changes: Sequence[str] = ()) -> dict[str, Section]:
    """The sections of a run file.

    Args:
        path: a TOML file.
        changes: settings that replace those of the file, each as "section.key=value" with the value as in TOML; what
            is not a TOML value is taken for a string, so quotes may be left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML, has a key outside of a section, or a change is not of that form.
    """
    sections = read_toml(path)
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ValueError(f"{path} has {name} outside of a section: put it below [train] or where it belongs")
    for change in changes:
        name, key, value = parsed_change(change)
        sections.setdefault(name, {})[key] = value
    return sections


def read_toml(path: str | Path) -> dict[str, Any]:
    """All that a run file says.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no run file {path}: give a TOML file with [train], [model], [data] and so on"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error


def fill(kind: type[Filled], section: Mapping[str, Any], *, where: str) -> Filled:
    """A dataclass made from a section, which messages call `where`.

    Raises:
        ValueError: a key is unknown or missing, or a value is of another type or out of its range.
    """
    allowed = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    check_keys(section, allowed, where=where)
    needed = [key for key, field in allowed.items() if field.default is MISSING and field.default_factory is MISSING]
    if missing := [key for key in needed if key not in section]:
        raise ValueError(f"{where} lacks {', '.join(missing)}: add {'it' if len(missing) == 1 else 'them'}")
    hints = get_type_hints(kind)
    values = {key: typed(value, hints[key], name=f"{where} {key}") for key, value in section.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error


def filled_preset(section: Section, presets: Mapping[str, Filled], *, where: str) -> Filled:
    """The preset that a section names, with the section's other keys in place of its own.

    Raises:
        ValueError: there is no such preset, a key is unknown, or a value is of another type or out of its range.
    """
    name = section.get("preset")
    if not isinstance(name, str) or name not in presets:
        given = "lacks preset" if name is None else f"preset is {name!r}"
        raise ValueError(f"{where} {given}; it must be one of {', '.join(presets)}")
    preset: Any = presets[name]
    hints = get_type_hints(type(preset))
    check_keys(section, ["preset", *hints], where=where)
    changes = {key: typed(section[key], hints[key], name=f"{where} {key}") for key in section if key != "preset"}
    try:
        changed: Filled = replace(preset, **changes)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error
    return changed


def check_sections(sections: Mapping[str, Section], run: type, *, needed: Sequence[str], where: str) -> None:
    """Raise ValueError where a run file, which messages call `where`, has other sections than `run` has fields."""
    known = [f"[{field.name}]" for field in fields(run)]
    for name in sections:
        if f"[{name}]" not in known:
            raise ValueError(f"{where} has a section [{name}]; it must be one of {', '.join(known)}")
    if missing := [f"[{name}]" for name in needed if name not in sections]:
        raise ValueError(f"{where} lacks {', '.join(missing)}: a run needs each of them")


def check_keys(section: Mapping[str, Any], allowed: Collection[str], *, where: str) -> None:
    """Raise ValueError where a section has a key that is not allowed there."""
    for key in section:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, n=1)
            meant = f", perhaps {close[0]} was meant" if close else ""
            raise ValueError(f"{where} has no {key}{meant}; it has {', '.join(allowed)}")


def typed(value: Any, hint: Any, *, name: str) -> Any:
    """A TOML value as the type of `hint`: int, float, bool, str, Literal, a tuple of them, or one of them or None.

    Raises:
        ValueError: it is of another type; says which is wanted.
    """
    try:
        return _converted(value, hint)
    except TypeError:
        shown = repr(value) if isinstance(value, str | list | dict) else str(value).lower()
        raise ValueError(f"{name} is {shown}; it must be {_wanted(hint)}") from None


def _converted(value: Any, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value == NONE and NoneType in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not NoneType)
        return _converted(value, hint)
    if origin is Literal:
        fits = value in arguments
    elif origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if not isinstance(value, list) or len(value) != len(kinds):
            raise TypeError
        return tuple(_converted(item, kind) for item, kind in zip(value, kinds, strict=True))
    elif hint is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        value = float(value) if fits else value
    else:
        fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if not fits:
        raise TypeError
    return value


def _wanted(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (other,) = (argument for argument in arguments if argument is not NoneType)
        return f'{_wanted(other)}, or "{NONE}"'
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        count = "a list" if arguments[-1] is ... else f"a list of {len(arguments)}"
        return f"{count}, each {_wanted(arguments[0])}"
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a string in quotes"}
    return words[hint]


def parsed_change(change: str) -> tuple[str, str, Any]:
    """ "section.key=value" as its three parts, the value being TOML or else a text without quotes."""
    name, equals, text = change.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise ValueError(f"--set is {change!r}; give section.key=value, such as train.steps=1000")
    try:
        return section, key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, text.strip()

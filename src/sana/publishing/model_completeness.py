"""Whether the files of a model are all there: its components, their weights, and every part that an index names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sana.pipeline_folder import COMPONENTS, INDEX
from sana_dit.caption_files import VOCABULARIES

CONFIG = "config.json"
_TOKENIZER = "tokenizer_config.json"
_CONFIGS = (CONFIG, "scheduler_config.json", _TOKENIZER, "preprocessor_config.json")
_JUDGE, _JUDGE_PARTS = "VILAForCausalLM", ("llm", "mm_projector", "vision_tower")
_WEIGHTS = re.compile(r"(.*/)?(diffusion_pytorch_)?model\b[^/]*\.safetensors")  # the names that loaders look for
_PART = re.compile(r".*-\d{5}-of-\d{5}[^/]*\.safetensors")
_PART_INDEX = re.compile(r".*\.safetensors\.index[^/]*\.json")


def missing_files(folder: Path, names: set[str]) -> Iterator[str]:
    """Yields what keeps a folder of which these files are published from being loaded."""
    for component in _components(folder, names):
        if not any(f"{component}/{config}" in names for config in _CONFIGS):
            yield f"{component} is missing, or has no configuration: save the model again"
    for name in sorted(names):
        prefix = name.removesuffix(CONFIG)
        if PurePosixPath(name).name == CONFIG and not any(
            other.startswith(prefix) and _WEIGHTS.fullmatch(other) for other in names
        ):
            yield f"{name} has no [diffusion_pytorch_]model*.safetensors beside it: save the model again"
        if PurePosixPath(name).name == _TOKENIZER and not any(
            name.removesuffix(_TOKENIZER) + vocabulary in names for vocabulary in VOCABULARIES
        ):
            yield f"{name} has no vocabulary ({', '.join(VOCABULARIES)}) beside it: save the tokenizer again"
    yield from _missing_parts(folder, names)


def _components(folder: Path, names: set[str]) -> list[str]:
    """The folders that a pipeline, and a judge wherever it is, cannot be without."""
    components = set[str]()
    if INDEX in names:
        named = {name for name, (library, *_) in _listed(folder / INDEX) if library is not None}
        components |= {*COMPONENTS, *named}
    for name in names:
        if PurePosixPath(name).name == CONFIG and _JUDGE in (_read(folder / name).get("architectures") or []):
            components |= {name.removesuffix(CONFIG) + part for part in _JUDGE_PARTS}
    return sorted(components)


def _listed(index: Path) -> list[tuple[str, list[Any]]]:
    return [(name, value) for name, value in _read(index).items() if isinstance(value, list) and value]


def _missing_parts(folder: Path, names: set[str]) -> Iterator[str]:
    named = set[str]()
    for name in sorted(filter(_PART_INDEX.fullmatch, names)):
        weight_map = _read(folder / name).get("weight_map")
        parts = {str(part) for part in weight_map.values()} if isinstance(weight_map, dict) else set()
        paths = {(PurePosixPath(name).parent / part).as_posix() for part in parts}
        if absent := sorted(paths - names):
            yield f"{name} names {', '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} missing"
        if not parts:
            yield f"{name} names no files of weights: save the model again"
        named |= paths
    if stray := sorted(set(filter(_PART.fullmatch, names)) - named):
        yield f"no index names {', '.join(stray)}: save the model again, or remove what is left of another one"


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, or {}: an invalid file is reported where all files are checked."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}

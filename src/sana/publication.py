"""What would be published from a folder, and whether it may be: looked into before anything is uploaded."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from safetensors import SafetensorError, safe_open
from yaml import YAMLError  # what ModelCard raises

CARD = "README.md"
PUBLISHED = (".jinja", ".json", ".jsonl", ".md", ".model", ".png", ".safetensors", ".txt")
"""All that is published, beside a licence: `.model` and `.jinja` are of tokenizers."""
LICENCES = ("COPYING", "LICENCE", "LICENSE", "NOTICE")
PICKLES = (".bin", ".ckpt", ".distcp", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")
UNFINISHED = (".incomplete", ".lock", ".new", ".part", ".tmp")
# {{ jinja }}, {{jinja}} but no {{BibTeX title}}, {% jinja %}, [More Information Needed]
_UNFILLED = re.compile(r"\{\{[-\s].*?\}\}|\{\{[\w.]+\}\}|\{%.*?%\}|\[More Information Needed\]", re.I)
_HEADER = re.compile(r"\A---\n.*?\n---\n", re.S)


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """A folder that may be published.

    Attributes:
        folder: Where it is.
        sizes: Bytes of each file that is uploaded, by its path in the folder.
        card: The text of its card.
    """

    folder: Path
    sizes: dict[str, int]
    card: str

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())


def inspect_folder(folder: Path, *, card: str | None = None) -> Publication:
    """Looks into every file of a folder.

    Args:
        folder: A pipeline or model as `save_pretrained` writes it. Hidden files stay at home.
        card: The text of the card that is published in the place of the folder's own.

    Raises:
        FileNotFoundError: There is no such folder, or it holds no model.
        ValueError: Names everything that keeps it from being published: pickles, code and any other file that a model
            does not need, unfinished files, links out of the folder, weights that are damaged or not finite, a card
            without a licence or text or with unfilled fields.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give one that save_pretrained wrote")
    if not any((folder / name).is_file() for name in ("model_index.json", "config.json")):
        raise FileNotFoundError(f"{folder} has neither model_index.json nor config.json: it holds no model")
    paths = sorted(path for path in folder.rglob("*") if _is_published(path, folder))
    own = folder / CARD
    text = own.read_text(encoding="utf-8") if card is None and own.is_file() else card
    problems = [problem for path in paths for problem in _file_problems(path, folder)]
    problems += ["there is no README.md: write a card, or name a licence to have one made"] if text is None else []
    problems += card_problems(text or "") if text is not None else []
    if problems:
        raise ValueError(f"{folder} cannot be published:" + "".join(f"\n- {problem}" for problem in problems))
    assert text is not None
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    return Publication(folder=folder, sizes=sizes | {CARD: len(text.encode())}, card=text)


def card_problems(text: str) -> Iterator[str]:
    """Yields what a card lacks."""
    try:
        data = vars(ModelCard(text, ignore_metadata_errors=False).data)
    except (ValueError, YAMLError) as error:
        yield f"the header of {CARD} is no YAML: {error}"
        return
    if not data.get("license"):
        yield f"{CARD} names no licence: add `license: apache-2.0`, or the one that holds, to its header"
    if data.get("license") == "other" and not (data.get("license_name") and data.get("license_link")):
        yield f"{CARD} says `license: other`: add license_name and license_link"
    lines = _HEADER.sub("", text).splitlines()
    if not any(line.strip() and not line.startswith("#") for line in lines):
        yield f"{CARD} says nothing about the model: write what it is and draws, or have a card made with --license"
    if unfilled := sorted({match[0] for match in _UNFILLED.finditer(text)}):
        yield f"{CARD} has fields that nobody filled in: {', '.join(unfilled)}"


def _is_published(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and "__pycache__" not in path.parts and (path.is_file() or path.is_symlink())


def _file_problems(path: Path, folder: Path) -> Iterator[str]:
    name, suffix = path.relative_to(folder).as_posix(), path.suffix.lower()
    if not path.exists() or not path.resolve().is_relative_to(folder.resolve()):
        yield f"{name} is a link to {path.resolve()}: copy the file into the folder"
    elif suffix in PICKLES:
        yield f"{name} may run code when it is loaded: save weights as safetensors, or move it out of the folder"
    elif suffix == ".py":
        yield f"{name} is code: nothing that a model brings along is executed, so leave it out"
    elif suffix in UNFINISHED:
        yield f"{name} looks unfinished: finish writing it, or remove it"
    elif suffix not in PUBLISHED and path.name.upper() not in LICENCES:
        yield f"{name} is nothing that a model needs ({', '.join(PUBLISHED)}): move it out of the folder"
    elif suffix == ".safetensors":
        yield from _weight_problems(path, name)


def _weight_problems(path: Path, name: str) -> Iterator[str]:
    try:
        with safe_open(path, framework="pt") as file:
            bad = [key for key in file.keys() if not _is_finite(file.get_tensor(key))]  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        yield f"{name} is damaged: {error}"
        return
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        yield f"{name} has NaN or infinity in {', '.join(bad[:3])}{more}"


def _is_finite(weight: torch.Tensor) -> bool:
    if not weight.is_floating_point():
        return True
    narrow = weight.element_size() < 2  # float8 knows no isfinite
    return bool((weight.float() if narrow else weight).isfinite().all())

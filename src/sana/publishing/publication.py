"""What would be published from a folder, and whether it may be: looked into before anything is uploaded."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from sana.publishing.card_problems import CARD, card_problems
from sana.publishing.loading_problems import loading_problems
from sana.publishing.model_completeness import missing_files
from sana_dit.lora_training import FILE as ADAPTER

PUBLISHED = (".jinja", ".json", ".jsonl", ".md", ".model", ".png", ".safetensors", ".txt")
"""All that is published, beside a licence: `.model` and `.jinja` are of tokenizers."""
LEGAL = ("COPYING", "LICENCE", "LICENSE", "NOTICE")
PICKLES = (".bin", ".ckpt", ".distcp", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")
UNFINISHED = (".incomplete", ".lock", ".new", ".part", ".tmp")
_BEGINNINGS = {".model": b"\n", ".png": b"\x89PNG\r\n\x1a\n"}  # of SentencePiece's first piece, and of a picture


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


def inspect_folder(folder: Path, *, card: str | Callable[[], str] | None = None) -> Publication:
    """Looks into every file of a folder.

    Args:
        folder: A pipeline or model as `save_pretrained` writes it. Hidden files stay at home.
        card: The text of the card that is published in the place of the folder's own, or what makes it: that is called
            only where the files are fit.

    Raises:
        FileNotFoundError: There is no such folder, or it holds no model.
        ValueError: Names everything that keeps it from being published: pickles, code and any other file that a model
            does not need, unfinished files, links out of the folder, files that are not what their names say, weights
            that are missing, damaged, not finite or other than their configuration says, a card without a licence that
            the Hub knows, without text or with unfilled fields.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give one that save_pretrained wrote")
    if not any((folder / name).is_file() for name in ("model_index.json", "config.json")):
        adapter = f", but an adapter: upload that with `hf upload OWNER/NAME {folder}`"
        told = adapter if (folder / ADAPTER).is_file() else ""
        raise FileNotFoundError(f"{folder} has neither model_index.json nor config.json: it holds no model{told}")
    paths = sorted(path for path in folder.rglob("*") if _is_published(path, folder))
    names = {path.relative_to(folder).as_posix() for path in paths}
    own = folder / CARD
    read = [path for path in paths if card is None or path != own]
    problems = [problem for path in read for problem in _file_problems(path, folder)]
    problems += missing_files(folder, names)
    problems = problems or list(loading_problems(folder, names))
    if callable(card):
        _refuse(folder, problems)
        card = card()
    text = own.read_text(encoding="utf-8", errors="replace") if card is None and own.is_file() else card
    no_card = [f"there is no {CARD}: write a card, or name a licence to have one made"]
    _refuse(folder, [*problems, *(no_card if text is None else card_problems(text))])
    assert text is not None
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    return Publication(folder=folder, sizes=sizes | {CARD: len(text.encode())}, card=text)


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        raise ValueError(f"{folder} cannot be published:" + "".join(f"\n- {problem}" for problem in problems))


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
        yield f"{name} is code: no code that comes with a model is executed, so leave it out"
    elif suffix in UNFINISHED:
        yield f"{name} looks unfinished: finish writing it, or remove it"
    elif suffix not in PUBLISHED and path.name.upper() not in LEGAL:
        yield f"{name} is not a file that a model needs ({', '.join(PUBLISHED)}): move it out of the folder"
    elif suffix == ".safetensors":
        yield from _weight_problems(path, name)
    elif suffix in _BEGINNINGS:
        with path.open("rb") as file:
            if file.read(len(_BEGINNINGS[suffix])) != _BEGINNINGS[suffix]:
                yield f"{name} is not a {suffix} file, whatever it is called: write it again, or remove it"
    else:
        yield from _text_problems(path, name)


def _text_problems(path: Path, name: str) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix.lower() == ".json" else {}
    except UnicodeDecodeError as error:
        yield f"{name} is not UTF-8 text ({error}): save it as UTF-8, or remove it"
    except ValueError as error:
        yield f"{name} is not JSON ({error}): write it again, or remove it"
    else:
        if not isinstance(values, dict) and name.endswith(("config.json", "index.json")):
            yield f"{name} holds a {type(values).__name__}, not an object: write it again"
        elif isinstance(values, dict) and "auto_map" in values:
            yield f"{name} names code to run (auto_map): no code that comes with a model is executed, so leave it out"


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

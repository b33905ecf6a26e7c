"""The files of a checkpoint: on a disk or on the Hub, in three folders or in one, read without running any."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sana_judge.hub_download import HUB_ID, download

CONFIG = "config.json"
PARTS = ("llm", "vision_tower", "mm_projector")

_READ = ["*.json", "*.txt", "*.jinja", "*.model", "README.md"]
_WEIGHTS = ("model", "pytorch_model")


def find_checkpoint(repo_or_dir: str | PathLike[str], *, revision: str | None) -> Path:
    """Returns the folder of a checkpoint; of a Hub repository only what is read is downloaded, no code or optimizer.

    Raises:
        FileNotFoundError: It is neither a folder nor a repository, or there is no config.json.
    """
    folder = Path(repo_or_dir)
    if not folder.is_dir():
        if not isinstance(repo_or_dir, str) or not HUB_ID.fullmatch(repo_or_dir):
            raise FileNotFoundError(f"{repo_or_dir} is not a folder: give one, or a Hub repository as owner/name")
        folder = _download(repo_or_dir, revision)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}: give the folder of a whole checkpoint")
    return folder


def read_weights(root: Path) -> dict[str, Tensor]:
    """Returns all weights with their part before their name, as in "llm.model.norm.weight".

    The parts have a folder each, as released; or one file, or its shards, holds all of them.

    Raises:
        FileNotFoundError: A part has no weights.
        ValueError: A file is damaged or holds more than tensors.
    """
    if whole := find_weights(root):
        return {name: tensor for path in whole for name, tensor in read_file(path).items()}
    weights: dict[str, Tensor] = {}
    for part in PARTS:
        files = find_weights(root / part)
        if not files:
            raise FileNotFoundError(
                f"{root / part} has no weights (model.safetensors, its shards, or pytorch_model.bin): "
                "download the whole checkpoint"
            )
        for path in files:
            weights |= {f"{part}.{name}": tensor for name, tensor in read_file(path).items()}
    return weights


def read_file(path: Path) -> dict[str, Tensor]:
    """Returns the named tensors of one file, safetensors or a pickle, which is read with weights_only=True.

    Raises:
        ValueError: The file is damaged or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and reading that could run foreign code: if you trust its source, "
            "export its state_dict to safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is truncated or not a file of weights ({error}): {_remedy(path)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} does not hold a state_dict of named tensors: export the model's state_dict")
    return state


def find_weights(folder: Path) -> list[Path]:
    """Returns the files of weights of one folder, safetensors before pickles; none if there are none."""
    for stem, suffix in zip(_WEIGHTS, ("safetensors", "bin"), strict=True):
        index = folder / f"{stem}.{suffix}.index.json"
        if index.is_file():
            return _shards(index)
        if (folder / f"{stem}.{suffix}").is_file():
            return [folder / f"{stem}.{suffix}"]
    return []


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Path) -> None:
    """Raises ValueError, with the names, where weights read from `source` lack or exceed those of a model."""
    problems = {
        "are missing": sorted(expected.keys() - weights.keys()),
        "are unknown": sorted(weights.keys() - expected.keys()),
        "have another shape": [
            f"{name} {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in weights and weights[name].shape != tensor.shape
        ],
    }
    for problem, names in problems.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"weights in {source} {problem}: {', '.join(names[:3])}{more}; download the checkpoint again"
            )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that holds a JSON object; without the file, an empty one.

    Raises:
        ValueError: The file holds something else.
    """
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): download it again") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds a {type(fields).__name__}, not an object: download it again")
    return fields


def fingerprint(root: Path) -> str:
    """Returns a hash of everything that makes a checkpoint's answers: configurations, tokenizer and weights."""
    digest = hashlib.sha256()
    for folder in (root, *(root / part for part in PARTS)):
        texts = [root / CONFIG] if folder == root and (root / "llm").is_dir() else _texts(folder)
        for path in sorted({*texts, *find_weights(folder)}):
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(root)} {content}\n".encode())
    return digest.hexdigest()


def _download(repo: str, revision: str | None) -> Path:
    folder = download(repo, revision, [*_READ, "*.safetensors"])
    if not any(folder.rglob("*.safetensors")):
        folder = download(repo, revision, ["*pytorch_model*.bin"])
    return folder


def _texts(folder: Path) -> list[Path]:
    return [path for pattern in ("*.json", "*.txt", "*.jinja") for path in folder.glob(pattern)]


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    names = sorted({str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else [])
    outside = [name for name in names if Path(name).name != name]
    if outside or not names:
        raise ValueError(f"{index} lists {outside or 'no files'}; it must list files of its own folder")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise FileNotFoundError(f"{index} lists {missing}, which are not beside it: download them again")
    return [index.parent / name for name in names]


def _remedy(path: Path) -> str:
    with open(path, "rb") as file:
        is_pointer = file.read(24) == b"version https://git-lfs."
    return "it is a Git LFS pointer, run git lfs pull" if is_pointer else "download it again"

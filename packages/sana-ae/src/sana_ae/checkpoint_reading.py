"""The files of an autoencoder checkpoint: where they are, on a disk or on the Hub, and how they are read."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sana_ae.hub_download import HUB_ID, absence_explained, download

CONFIG = "config.json"
FACTS = "sana.json"
WEIGHTS = "diffusion_pytorch_model"
_Fetch = Callable[[list[str]], Path]
_VARIANTS = {torch.bfloat16: ".bf16", torch.float16: ".fp16"}
_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFiles:
    """Files on this machine: the weights, and the folder whose config.json and sana.json describe them."""

    weights: tuple[Path, ...]
    folder: Path


def find_checkpoint(
    repo_dir_or_file: str | PathLike[str], *, subfolder: str | None, revision: str | None, dtype: torch.dtype | None
) -> CheckpointFiles:
    """Find an autoencoder: one file, its own folder, the `vae` folder of a pipeline, or any of these on the Hub.

    Where weights come in several precisions the one of `dtype` is taken, else the unmarked one, else any. Raises
    FileNotFoundError where there is none, ValueError where several files leave open which is meant.
    """
    path = Path(repo_dir_or_file)
    if path.is_file():
        return CheckpointFiles(weights=(path,), folder=path.parent)
    fetch = _fetcher(fspath(repo_dir_or_file), revision)
    root = fetch(["model_index.json", f"*{CONFIG}", f"*{FACTS}", "*.safetensors.index*.json"])
    is_pipeline = subfolder is None and (root / "model_index.json").is_file()
    prefix = "vae/" if is_pipeline else f"{subfolder.strip('/')}/" if subfolder else ""
    with absence_explained(repo_dir_or_file, revision):
        weights = _find_diffusers(fetch, root / prefix, prefix, dtype) or _find_single(fetch, prefix)
    return CheckpointFiles(weights=weights, folder=root / prefix)


def read_weights(
    files: CheckpointFiles, device: torch.device, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Read all tensors of a checkpoint; those in floating point become `dtype`, if it is given.

    The device never holds a file in another precision than the one asked for. Raises ValueError where a file is damaged
    or holds more than tensors.
    """
    weights: dict[str, torch.Tensor] = {}
    for path in files.weights:
        read = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
        weights |= {name: x.to(device, dtype if x.is_floating_point() else None) for name, x in read.items()}
    return weights


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, an empty one where there is no file; raises ValueError where the file is something else."""
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): {_remedy(path)}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds a {type(fields).__name__}, not an object: {_remedy(path)}")
    return fields


def _fetcher(repo_or_dir: str, revision: str | None) -> _Fetch:
    """Returns a function that downloads the files matching some patterns and returns the folder they are in.

    Of a local folder it downloads none.
    """
    folder = Path(repo_or_dir)
    if folder.is_dir():
        return lambda patterns: folder
    if not HUB_ID.fullmatch(repo_or_dir) or folder.suffix in _SUFFIXES:
        raise FileNotFoundError(
            f"{repo_or_dir} is neither a file nor a folder: give one, or a Hub repository as owner/name"
        )
    return lambda patterns: download(repo_or_dir, revision, patterns)


def _find_diffusers(fetch: _Fetch, folder: Path, prefix: str, dtype: torch.dtype | None) -> tuple[Path, ...]:
    wanted = _VARIANTS.get(dtype, "") if dtype else ""
    for variant in dict.fromkeys([wanted, "", *_VARIANTS.values()]):
        index = folder / f"{WEIGHTS}.safetensors.index{variant}.json"
        names = _shards(index) if index.is_file() else [f"{WEIGHTS}{variant}.safetensors"]
        fetch([prefix + name for name in names])
        missing = [name for name in names if not (folder / name).is_file()]
        if not missing:
            return tuple(folder / name for name in names)
        if index.is_file():
            raise FileNotFoundError(f"{index} lists {missing}, which are not beside it: download them again")
    return ()


def _shards(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    files = weight_map.values() if isinstance(weight_map, dict) else []
    names = sorted({str(name) for name in files})
    outside = [name for name in names if Path(name).name != name]
    if outside or not names:
        raise ValueError(f"{index} lists {outside or 'no files'}; it must list files of its own folder")
    return names


def _find_single(fetch: _Fetch, prefix: str) -> tuple[Path, ...]:
    """The only file of weights: in a folder under any name, on the Hub under efficientvit's, model.safetensors."""
    folder = fetch([f"{prefix}model{suffix}" for suffix in _SUFFIXES]) / prefix
    found = sorted(path for suffix in _SUFFIXES for path in folder.glob(f"*{suffix}"))
    if len(found) > 1:
        names = [path.name for path in found]
        raise ValueError(f"{folder} holds {len(found)} files of weights, {names}: give the path of one of them")
    if not found:
        raise FileNotFoundError(
            f"no autoencoder in {folder}: expected {WEIGHTS}.safetensors, shards with an index, or one .safetensors, "
            ".pt or .pth file. On the Hub such a file is found if it is called model: download one of another name and "
            "give its path"
        )
    return tuple(found)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error}): {_remedy(path)}") from error


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", mmap=is_zipfile(path), weights_only=True)  # older: not a zip
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and reading that could run foreign code: if you trust its source, export "
            "its state_dict to safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is truncated or not a PyTorch file ({error}): {_remedy(path)}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} has no state_dict of tensors: export the model's state_dict")
    return state


def _remedy(path: Path) -> str:
    with open(path, "rb") as file:
        is_pointer = file.read(24) == b"version https://git-lfs."
    return "it is a Git LFS pointer, run git lfs pull" if is_pointer else "download it again"

"""The files of a transformer checkpoint: where they lie on a disk or on the Hub, and how they are read."""

import json
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sana_dit.hub_download import HUB_ID, absence_explained, download

CONFIG = "config.json"
FACTS = "sana.json"
EXTRAS = "sana.safetensors"
WEIGHTS = "diffusion_pytorch_model"
Fetch = Callable[[list[str]], Path]
_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name
_RECONSTRUCT = np.empty(0).__reduce__()[0]  # makes an empty array
# NVlabs' training keeps the state of NumPy's generator beside the weights: an array of uint32, by NumPy 1 or 2.
_RANDOM_STATE: list[Any] = [
    (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"),
    (_RECONSTRUCT, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    type(np.dtype("uint32")),
]
_VARIANTS = {torch.bfloat16: ".bf16", torch.float16: ".fp16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFiles:
    """Files on this machine.

    Attributes:
        weights: The file or files of the weights.
        folder: The folder whose config.json, sana.json and sana.safetensors describe them.
    """

    weights: tuple[Path, ...]
    folder: Path


def find_checkpoint(
    repo_dir_or_file: str | PathLike[str], *, subfolder: str | None, revision: str | None, dtype: torch.dtype | None
) -> CheckpointFiles:
    """Finds a transformer in a file, in its own folder, in a pipeline's folder or on the Hub.

    Where weights come in several precisions the one of `dtype` is taken, else the unmarked one, else any.

    Raises:
        FileNotFoundError: There is none.
        ValueError: There are several and nothing tells which is meant.
    """
    path = Path(repo_dir_or_file)
    if path.is_file():
        return CheckpointFiles(weights=(path,), folder=path.parent)
    fetch = fetcher(repo_dir_or_file, revision)
    root = fetch(["model_index.json", "*config.json", "*sana.json", "*sana.safetensors", "*.safetensors.index*.json"])
    is_pipeline = subfolder is None and (root / "model_index.json").is_file()
    prefix = "transformer/" if is_pipeline else f"{subfolder.strip('/')}/" if subfolder else ""
    with absence_explained(repo_dir_or_file, revision):
        weights = _find_diffusers(fetch, root / prefix, prefix, dtype) or _find_single(fetch, prefix)
    return CheckpointFiles(weights=weights, folder=root / prefix)


def read_weights(paths: tuple[Path, ...], device: torch.device, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Reads all files into one dictionary of tensors of `dtype`, or of the files' own.

    The device never holds a file in another precision than the one asked for.

    Raises:
        ValueError: A file is damaged, or holds more than tensors.
    """
    weights: dict[str, Tensor] = {}
    for path in paths:
        read = read_safetensors(path) if path.suffix == ".safetensors" else _read_pth(path)
        weights |= {name: weight.to(device, dtype) for name, weight in read.items()}
    return weights


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads a .safetensors file into CPU memory.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error}): {_remedy(path)}") from error


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
        raise ValueError(f"{path} is not JSON ({error}): {_remedy(path)}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds a {type(fields).__name__}, not an object: {_remedy(path)}")
    return fields


def fetcher(repo_or_dir: str | PathLike[str], revision: str | None) -> Fetch:
    """Returns a function that downloads the files matching some patterns and returns the folder they are in.

    Of a local folder it downloads none.

    Raises:
        FileNotFoundError: It is neither a folder nor the name of a Hub repository.
    """
    folder = Path(repo_or_dir)
    if folder.is_dir():
        return lambda patterns: folder
    is_file = Path(repo_or_dir).suffix in (".safetensors", ".pt", ".pth")
    if is_file or not isinstance(repo_or_dir, str) or not HUB_ID.fullmatch(repo_or_dir):
        raise FileNotFoundError(
            f"{repo_or_dir} is neither a file nor a folder: give one, or a Hub repository as owner/name"
        )
    return lambda patterns: download(repo_or_dir, revision, patterns)


def _find_diffusers(fetch: Fetch, folder: Path, prefix: str, dtype: torch.dtype | None) -> tuple[Path, ...]:
    wanted = _VARIANTS.get(dtype, "") if dtype else ""
    for variant in dict.fromkeys([wanted, "", *_VARIANTS.values()]):
        index = folder / f"{WEIGHTS}.safetensors.index{variant}.json"
        names = _shards(index) if index.is_file() else [f"{WEIGHTS}{variant}.safetensors"]
        fetch([prefix + name for name in names])
        paths = tuple(folder / name for name in names)
        missing = [path.name for path in paths if not path.is_file()]
        if not missing:
            return paths
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


def _find_single(fetch: Fetch, prefix: str) -> tuple[Path, ...]:
    """Finds the only file of weights: in a folder under any name, on the Hub under those that are usual."""
    folder = fetch([prefix + name for name in ("checkpoints/*.pth", "model.pth", "model.safetensors")]) / prefix
    patterns = ("*.safetensors", "*.pth", "checkpoints/*.pth")
    found = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.name != EXTRAS)
    if len(found) > 1:
        names = [path.relative_to(folder).as_posix() for path in found]
        raise ValueError(f"{folder} holds {len(found)} files of weights, {names}: give the path of one of them")
    if not found:
        raise FileNotFoundError(
            f"no transformer in {folder}: expected {WEIGHTS}.safetensors, shards with an index, or one "
            ".safetensors or .pth file. On the Hub such a file is found as model.safetensors, model.pth or "
            "checkpoints/*.pth: download one of another name and give its path"
        )
    return tuple(found)


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals(_RANDOM_STATE):
            state = torch.load(path, map_location="cpu", mmap=is_zipfile(path), weights_only=True)  # older: not a zip
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and reading that could run foreign code: if you trust its source, "
            "export its state_dict to safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is truncated or not a PyTorch file ({error}): {_remedy(path)}") from error
    if isinstance(state, dict) and {"state_dict", "state_dict_ema"} <= state.keys():
        warnings.warn(f"{path} also holds averaged weights, state_dict_ema: read are those of state_dict", stacklevel=4)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(_is_weight(name, value) for name, value in state.items()):
        raise ValueError(f"{path} has no state_dict of named floating-point tensors: export the model's state_dict")
    while prefix := next((p for p in _WRAPPERS if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _is_weight(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.is_floating_point()


def _remedy(path: Path) -> str:
    with open(path, "rb") as file:
        is_pointer = file.read(24) == b"version https://git-lfs."
    return "it is a Git LFS pointer, run git lfs pull" if is_pointer else "download it again"

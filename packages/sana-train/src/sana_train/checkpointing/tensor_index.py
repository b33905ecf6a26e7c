"""The index of a checkpoint's tensors: read without executing anything, compared with what is to be filled."""

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

INDEX = ".metadata"
_RECORDS = (
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "TensorProperties",
    "TensorStorageMetadata",
    "_MEM_FORMAT_ENCODING",
)
_KNOWN = {("torch.distributed.checkpoint.metadata", name) for name in _RECORDS} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
}


def read_index(folder: Path) -> Metadata:
    """The index in `folder`, which torch.distributed.checkpoint keeps as a pickle.

    Raises:
        pickle.UnpicklingError: it names a class or function that is not part of an index, or a file elsewhere.
    """
    with (folder / INDEX).open("rb") as file:
        index = _IndexUnpickler(file).load()
    if not isinstance(index, Metadata):
        raise pickle.UnpicklingError(f"{INDEX} holds a {type(index).__name__}, not an index")
    for name, entry in index.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):  # anything else would be unpickled when it is read
            raise pickle.UnpicklingError(f"{INDEX} says that {name} is not a tensor")
    for place in index.storage_data.values():
        if not re.fullmatch(r"__\d+_\d+\.distcp", place.relative_path):
            raise pickle.UnpicklingError(f"{INDEX} names {place.relative_path}, which is not a file of tensors")
    return index


class _IndexUnpickler(pickle.Unpickler):
    """Knows the records of an index, sizes, dtypes and layouts, and refuses every other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _KNOWN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{INDEX} names {module}.{name}, which is not part of an index")


def differences(index: Metadata, state: Mapping[str, Tensor]) -> list[str]:
    """How the tensors of `index` differ from those of `state`, in words; empty where the one fits into the other."""
    saved = index.state_dict_metadata
    then, now = _depth(saved), _depth(state)
    if then and now and then != now:
        return [f"the checkpoint has {then} blocks (blocks.{then - 1}...), the model {now}"]
    words = []
    if only := sorted(saved.keys() - state.keys()):
        words.append(f"only the checkpoint has {_some(only)}")
    if only := sorted(state.keys() - saved.keys()):
        words.append(f"the checkpoint lacks {_some(only)}")
    changes = [(name, _kind(saved[name]), _kind(state[name])) for name in sorted(saved.keys() & state.keys())]
    if changed := [f"{name} {before} -> {after}" for name, before, after in changes if before != after]:
        words.append(_some(changed))
    return words


def _depth(names: Iterable[str]) -> int:
    return max((int(match[1]) + 1 for name in names if (match := re.search(r"\bblocks\.(\d+)\.", name))), default=0)


def _kind(tensor: Any) -> str:
    shape, dtype = (
        (tensor.shape, tensor.dtype) if isinstance(tensor, Tensor) else (tensor.size, tensor.properties.dtype)
    )
    return f"{tuple(shape)} {str(dtype).removeprefix('torch.')}"


def _some(words: list[str], limit: int = 4) -> str:
    rest = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + rest

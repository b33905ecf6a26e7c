"""One file of encoded samples: latents, captions and their names in safetensors, written whole or not at all."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

# The tensors of a shard and their dimensions: N samples, C channels of h x w cells, L tokens of Dc channels.
DIMENSIONS = {"latents": "NChw", "caption": "NLd", "caption_mask": "NL"}


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """What a shard holds, read without its tensors."""

    path: Path
    samples: int
    latent_shape: tuple[int, int, int]
    caption_shape: tuple[int, int]
    scaling_factor: float

    @property
    def size(self) -> tuple[int, int]:
        """Cells (h, w) of every sample in the shard."""
        return self.latent_shape[1:]


def write_shard(
    path: str | Path,
    latents: Tensor,
    caption: Tensor,
    caption_mask: Tensor,
    *,
    keys: Sequence[str],
    scaling_factor: float,
) -> None:
    """Write N encoded samples, all of one size, as `path`; dtypes are kept.

    Args:
        path: the file, in `.safetensors`; its folder is made. An existing file is replaced whole.
        latents: as the autoencoder gives them, not times the scaling factor (N, C, h, w).
        caption: states of the text encoder (N, L, Dc).
        caption_mask: 1 or True where a token counts (N, L).
        keys: one name per sample, which the log gives when a sample makes trouble.
        scaling_factor: what the trained model's latents are times these.

    Raises:
        ValueError: shapes do not fit together, or there are latents that are not finite (names the samples).
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"shard {path} must end in .safetensors: the reader looks for nothing else")
    tensors = {"latents": latents, "caption": caption, "caption_mask": caption_mask}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    metadata = {"scaling_factor": repr(float(scaling_factor)), "keys": json.dumps(list(keys), ensure_ascii=False)}
    _header(path, shapes, metadata)
    broken = [key for key, sample in zip(keys, latents, strict=True) if not sample.isfinite().all()]
    if broken:
        raise ValueError(f"{len(broken)} of {len(keys)} latents are not finite ({broken[:3]}): leave these samples out")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_header(path: Path) -> ShardHeader:
    """The header of a shard, checked.

    Raises:
        ValueError: the file is damaged or is no shard; names it and says what is missing.
    """
    with _opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return _header(path, shapes, file.metadata() or {})


class OpenShard:
    """A shard mapped into memory: a sample costs the reading of its own bytes."""

    def __init__(self, path: Path) -> None:
        file = _opened(path)
        self.keys: list[str] = json.loads(file.metadata()["keys"])
        self._slices = {name: file.get_slice(name) for name in DIMENSIONS}

    def sample(self, index: int) -> dict[str, Tensor]:
        """The tensors of one sample, each with a first size of 1."""
        return {name: tensor[index : index + 1] for name, tensor in self._slices.items()}


def _opened(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or damaged ({error}): write it again") from error


def _header(path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> ShardHeader:
    if missing := [name for name in DIMENSIONS if name not in shapes]:
        raise ValueError(f"{path} has no {', '.join(missing)}; a shard has {', '.join(DIMENSIONS)}: write it again")
    if any(len(shapes[name]) != len(DIMENSIONS[name]) or 0 in shapes[name] for name in DIMENSIONS):
        raise ValueError(
            f"{path} has {_listed(shapes)}; a shard has latents (N, C, h, w), caption (N, L, Dc) and caption_mask "
            "(N, L), none of them empty"
        )
    samples = shapes["latents"][0]
    if shapes["caption"][:2] != shapes["caption_mask"] or shapes["caption"][0] != samples:
        raise ValueError(f"{path} has {_listed(shapes)}; these must agree in samples, and caption and mask in tokens")
    keys = _metadata(path, metadata, "keys", json.loads)
    if not isinstance(keys, list) or len(keys) != samples or not all(isinstance(key, str) for key in keys):
        count = f"{len(keys)} keys" if isinstance(keys, list) else f"keys {keys!r}"
        raise ValueError(f"{path} has {count} for {samples} samples; it must have one name for each")
    scaling_factor = _metadata(path, metadata, "scaling_factor", float)
    if not (math.isfinite(scaling_factor) and scaling_factor > 0):
        raise ValueError(f"{path} has scaling_factor {scaling_factor}; it must be a positive number")
    latent, caption = shapes["latents"][1:], shapes["caption"][1:]
    return ShardHeader(path, samples, (latent[0], latent[1], latent[2]), (caption[0], caption[1]), scaling_factor)


def _metadata(path: Path, metadata: dict[str, str], name: str, read: Any) -> Any:
    try:
        return read(metadata[name])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} has {name} {metadata.get(name)!r} in its metadata: write it again") from error


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shapes[name]}" for name in DIMENSIONS)

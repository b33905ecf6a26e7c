"""One file of encoded samples: latents, captions and their names in safetensors, written whole or not at all."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sana_train.folders import replacing

# The tensors of a shard and their dimensions: N samples, C channels of h x w cells, M captions of L tokens of Dc
# channels. Where M is not N, "caption_start" (N + 1) says which captions are a sample's, and "caption_scores" (M) how
# well they describe it.
DIMENSIONS = {"latents": "NChw", "caption": "MLd", "caption_mask": "ML"}
STARTS, SCORES = "caption_start", "caption_scores"


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """What a shard holds, read without its tensors."""

    path: Path
    samples: int
    captions: int
    scored: bool
    latent_shape: tuple[int, int, int]
    caption_shape: tuple[int, int]
    scaling_factor: float
    sha256: str | None

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
    captions_of: Sequence[int] | None = None,
    caption_scores: Sequence[float] | None = None,
) -> None:
    """Write N encoded samples, all of one size, as `path`; dtypes are kept. A hash of the content goes with it.

    Args:
        path: the file, in `.safetensors`; its folder is made. An existing file is replaced whole.
        latents: as the autoencoder gives them, not times the scaling factor (N, C, h, w).
        caption: states of the text encoder (M, L, Dc); M is N unless `captions_of` is given.
        caption_mask: 1 or True where a token counts (M, L).
        keys: one name per sample, which the log gives when a sample makes trouble.
        scaling_factor: what these latents are multiplied by for the model.
        captions_of: how many of the M captions, in order, are of each sample; None is one each.
        caption_scores: a CLIP score for each caption, or None where they have none.

    Raises:
        ValueError: shapes do not fit together, or there are latents that are not finite (names the samples).
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"shard {path} must end in .safetensors: the reader looks for nothing else")
    tensors = {"latents": latents, "caption": caption, "caption_mask": caption_mask}
    if captions_of is not None:
        tensors[STARTS] = torch.tensor([0, *accumulate(captions_of)])
    if caption_scores is not None:
        tensors[SCORES] = torch.tensor(caption_scores, dtype=torch.float32)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    metadata = {"scaling_factor": repr(float(scaling_factor)), "keys": json.dumps(list(keys), ensure_ascii=False)}
    _header(path, shapes, metadata)
    _check_captions(path, tensors, captions=len(caption))
    broken = [key for key, sample in zip(keys, latents, strict=True) if not sample.isfinite().all()]
    if broken:
        raise ValueError(f"{len(broken)} of {len(keys)} latents are not finite ({broken[:3]}): leave these samples out")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        save_file(tensors, temporary, metadata=metadata | {"sha256": _content_hash(tensors, metadata)})


def read_header(path: Path) -> ShardHeader:
    """The header of a shard, checked.

    Raises:
        ValueError: the file is damaged or is not a shard; names it and says what is missing.
    """
    with _opened(path) as file:
        return _header_of(path, file)


def check_content(path: Path) -> None:
    """Read a whole shard and compare it with the hash that it was written with.

    Raises:
        ValueError: the shard is damaged, has been changed, or carries no hash.
    """
    written = read_header(path).sha256
    if written is None:
        raise ValueError(f"{path} carries no sha256 of its content: write it again with sana_train.write_shard")
    with _opened(path) as file:
        metadata = file.metadata()
    if (found := _content_hash(load_file(path), metadata)) != written:
        raise ValueError(f"{path} has changed since it was written (sha256 {found}, not {written}): write it again")


class OpenShard:
    """A shard mapped into memory: a sample costs the reading of its own bytes.

    Attributes:
        header: what it holds.
        keys: the names of its samples.
    """

    def __init__(self, path: Path) -> None:
        file = _opened(path)
        names = file.keys()
        self.header = _header_of(path, file)
        self.keys: list[str] = json.loads(file.metadata()["keys"])
        self._slices = {name: file.get_slice(name) for name in DIMENSIONS}
        few = {name: file.get_tensor(name) for name in (STARTS, SCORES) if name in names}
        _check_captions(path, few, captions=self._slices["caption"].get_shape()[0])
        self._starts = few[STARTS].tolist() if STARTS in few else list(range(len(self.keys) + 1))
        self._scores = few[SCORES].tolist() if SCORES in few else [0.0] * self._starts[-1]

    def scores(self, index: int) -> list[float]:
        """The score of each caption of a sample; zeros where the shard has no scores."""
        return self._scores[self._starts[index] : self._starts[index + 1]]

    def sample(self, index: int, caption: int = 0) -> dict[str, Tensor]:
        """The tensors of one sample with one of its captions, each with a first size of 1."""
        places = {"N": index, "M": self._starts[index] + caption}
        return {name: x[(row := places[DIMENSIONS[name][0]]) : row + 1] for name, x in self._slices.items()}


def _opened(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged ({error}): write it again") from error


def _header_of(path: Path, file: Any) -> ShardHeader:
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return _header(path, shapes, file.metadata() or {})


def _header(path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> ShardHeader:
    if missing := [name for name in DIMENSIONS if name not in shapes]:
        raise ValueError(f"{path} has no {', '.join(missing)}; a shard has {', '.join(DIMENSIONS)}: write it again")
    if any(len(shapes[name]) != len(DIMENSIONS[name]) or 0 in shapes[name] for name in DIMENSIONS):
        raise ValueError(
            f"{path} has {_listed(shapes)}; a shard has latents (N, C, h, w), caption (N, L, Dc) and caption_mask "
            "(N, L), none of them empty"
        )
    samples, captions = shapes["latents"][0], shapes["caption"][0]
    if shapes["caption"][:2] != shapes["caption_mask"] or (captions != samples and STARTS not in shapes):
        raise ValueError(f"{path} has {_listed(shapes)}; these must agree in samples, and caption and mask in tokens")
    for name, wanted in ((STARTS, (samples + 1,)), (SCORES, (captions,))):
        if shapes.get(name, wanted) != wanted:
            raise ValueError(f"{path} has {name} {shapes[name]} for {_listed(shapes)}; it must be {wanted}")
    keys = _metadata(path, metadata, "keys", json.loads)
    if not isinstance(keys, list) or len(keys) != samples or not all(isinstance(key, str) for key in keys):
        count = f"{len(keys)} keys" if isinstance(keys, list) else f"keys {keys!r}"
        raise ValueError(f"{path} has {count} for {samples} samples; it must have one name for each")
    scaling_factor = _metadata(path, metadata, "scaling_factor", float)
    if not (math.isfinite(scaling_factor) and scaling_factor > 0):
        raise ValueError(f"{path} has scaling_factor {scaling_factor}; it must be a positive number")
    latent, caption = shapes["latents"][1:], shapes["caption"][1:]
    return ShardHeader(
        path=path,
        samples=samples,
        captions=captions,
        scored=SCORES in shapes,
        latent_shape=(latent[0], latent[1], latent[2]),
        caption_shape=(caption[0], caption[1]),
        scaling_factor=scaling_factor,
        sha256=metadata.get("sha256"),
    )


def _check_captions(path: Path, tensors: Mapping[str, Tensor], *, captions: int) -> None:
    """Raise ValueError where the captions are not shared out to the samples, or a score is not finite."""
    if STARTS in tensors:
        starts = tensors[STARTS].tolist()
        if starts[0] != 0 or starts[-1] != captions or any(end <= start for start, end in pairwise(starts)):
            raise ValueError(f"{path} does not share its {captions} captions out, one or more to each sample")
    if SCORES in tensors and not tensors[SCORES].isfinite().all():
        raise ValueError(f"{path} has caption scores that are not finite: score the captions again")


def _content_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The sha256 of keys and scaling factor, and of the names, dtypes, shapes and values of all tensors."""
    digest = hashlib.sha256(f"{metadata['keys']} {metadata['scaling_factor']}\n".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _metadata(path: Path, metadata: dict[str, str], name: str, read: Any) -> Any:
    try:
        return read(metadata[name])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} has {name} {metadata.get(name)!r} in its metadata: write it again") from error


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shapes[name]}" for name in DIMENSIONS)

"""The three models of a pipeline, loaded onto their device in the requested dtype and quantization."""

import re
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import HfApi, try_to_load_from_cache

from sana.catalog import CHECKPOINTS
from sana.devices import running_dtype
from sana.pipeline_folder import INDEX
from sana_ae import DCAE
from sana_dit import CaptionEncoder, Quantization, SanaTransformer, quantize_linears

_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_MARK = re.compile(r"\.(fp16|bf16)[.-]")  # of one file, of shards


class PipelineParts(NamedTuple):
    """In the order that `SanaPipeline` takes them."""

    caption_encoder: CaptionEncoder
    transformer: SanaTransformer
    autoencoder: DCAE


def load_parts(
    repo_or_dir: str | Path,
    *,
    revision: str | None,
    device: torch.device,
    dtype: torch.dtype | None,
    quantize: Quantization | None,
    offload: bool,
) -> PipelineParts:
    """The models of a pipeline folder or Hub repository; arguments as in `SanaPipeline.from_pretrained`.

    Nothing reaches the device in another precision than it runs in: quantised models come there in 8 or 4 bits.
    """
    if dtype is None and device.type != "cpu":
        dtype = published_dtype(repo_or_dir, revision)
    first = torch.device("cpu") if quantize or dtype is None else device
    transformer = SanaTransformer.from_pretrained(
        repo_or_dir, subfolder="transformer", revision=revision, dtype=dtype, device=first
    )
    used = dtype or running_dtype(next(transformer.parameters()).dtype, device)
    transformer = transformer.to(used) if quantize else transformer.to(device, used)
    wide = torch.bfloat16 if used == torch.float16 else used  # fp16 overflows in Gemma-2 and in the autoencoder
    home = torch.device("cpu") if offload else device
    encoder = CaptionEncoder.from_pretrained(
        repo_or_dir, revision=revision, dtype=wide, device=torch.device("cpu") if quantize else home
    )
    if quantize:
        quantize_linears(transformer.blocks, quantize, device=device)
        transformer = transformer.to(device)
        quantize_linears(encoder.text_encoder, quantize, device=home)
    autoencoder = DCAE.from_pretrained(repo_or_dir, subfolder="vae", revision=revision, dtype=wide, device=device)
    return PipelineParts(encoder, transformer, autoencoder)


def published_dtype(repo_or_dir: str | Path, revision: str | None = None) -> torch.dtype | None:
    """The half precision that a transformer was published in, None where neither the catalog nor its files tell.

    diffusers' folders hold fp32 weights under an unmarked name, and the trained half precision beside them under a
    marked one. A model that was trained in fp16 can break in bf16, and the other way round.
    """
    for checkpoint in CHECKPOINTS:
        if checkpoint.repository == str(repo_or_dir):
            return torch.float16 if checkpoint.dtype == "float16" else torch.bfloat16
    marks = {mark[1] for name in _weight_names(repo_or_dir, revision) if (mark := _MARK.search(name))}
    return _HALVES[marks.pop()] if len(marks) == 1 else None


def _weight_names(repo_or_dir: str | Path, revision: str | None) -> list[str]:
    """The names of a transformer's weights in a folder, on the Hub or, where that is out of reach, in its cache."""
    folder = Path(repo_or_dir)
    if not folder.is_dir():
        try:
            return [name for name in HfApi().list_repo_files(str(repo_or_dir), revision=revision) if _is_weights(name)]
        except Exception:  # huggingface_hub changed what it is built on, and with it the errors of a lost connection
            index = try_to_load_from_cache(str(repo_or_dir), INDEX, revision=revision)
            folder = Path(index).parent if isinstance(index, str) else folder
    return [name for path in folder.glob("transformer/*") if _is_weights(name := f"transformer/{path.name}")]


def _is_weights(name: str) -> bool:
    return name.startswith("transformer/") and name.endswith(".safetensors")

"""The three models of a pipeline, loaded onto their device in the requested dtype and quantization."""

from pathlib import Path
from typing import NamedTuple

import torch

from sana.devices import running_dtype
from sana_ae import DCAE
from sana_dit import CaptionEncoder, Quantization, SanaTransformer, quantize_linears


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

    Quantised models are loaded into CPU memory and reach the device in their 8 or 4 bits.
    """
    first = torch.device("cpu") if quantize else device
    transformer = SanaTransformer.from_pretrained(
        repo_or_dir, subfolder="transformer", revision=revision, dtype=dtype, device=first
    )
    used = dtype or running_dtype(next(transformer.parameters()).dtype, device)
    transformer = transformer.to(used)
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

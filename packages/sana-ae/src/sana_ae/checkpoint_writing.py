"""Folders of an autoencoder that are written whole or not at all, and the card of one on the Hub."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sana_ae.checkpoint_reading import CONFIG, FACTS, WEIGHTS
from sana_ae.config import DCAEConfig

SAVED = (f"{WEIGHTS}*.safetensors*", FACTS)
"""Patterns of what a save writes, or an earlier one wrote, beside config.json."""


@contextmanager
def replacing_files(directory: Path) -> Iterator[Path]:
    """Yield an empty folder; what is in it at the end replaces the checkpoint in `directory`.

    A new directory appears at once. In an existing one file after file is replaced, config.json last, and what an
    earlier save left there and this one lacks is removed. If the body raises, nothing has changed.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as name:
        staging = Path(name) / "new"
        staging.mkdir()
        yield staging
        for path in staging.iterdir():
            path.chmod(staging.stat().st_mode & 0o666)  # safetensors makes files that only their owner reads
            _sync(path)
        if directory.exists():
            _move_into(staging, directory)
        else:
            os.replace(staging, directory)
        _sync(directory.parent)


def write_checkpoint(folder: Path, tensors: Mapping[str, torch.Tensor], config: DCAEConfig) -> None:
    """Write the files that diffusers' `AutoencoderDC` reads, and sana.json for what it does not know."""
    weights = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(weights, folder / f"{WEIGHTS}.safetensors", metadata={"format": "pt"})
    write_json(folder / CONFIG, {"_class_name": "AutoencoderDC"} | config.to_dict())
    if not (config.encoder_out_shortcut or config.decoder_in_shortcut):
        write_json(folder / FACTS, {"adaptive_channels": config.adaptive_channels})


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON object as people read it."""
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def model_card(repo: str, config: DCAEConfig, num_parameters: int) -> str:
    """A short README.md for an autoencoder on the Hub."""
    f, channels = config.compression, config.latent_channels
    return f"""---
library_name: sana-ae
tags: [sana, dc-ae, diffusers]
---

# {repo.rpartition("/")[2]}

A deep-compression autoencoder (DC-AE f{f}c{channels}) of {num_parameters / 1e6:,.1f}M parameters: an image of
H x W pixels becomes a latent of {channels} x H/{f} x W/{f}.

```python
from sana_ae import DCAE

ae = DCAE.from_pretrained("{repo}")
latent = ae.encode(image)  # (B, 3, H, W) in [-1, 1]
image = ae.decode(latent)
```

A diffusion model sees latents times {config.scaling_factor:g}.
`diffusers.AutoencoderDC.from_pretrained("{repo}")` loads it too.
"""


def _move_into(staging: Path, directory: Path) -> None:
    new = {path.name for path in staging.iterdir()}
    # The configuration last, so that it never describes weights that are still to come.
    for name in sorted(new, key=lambda name: (name in (CONFIG, FACTS), name)):
        os.replace(staging / name, directory / name)
    for pattern in SAVED:
        for path in directory.glob(pattern):
            if path.name not in new:
                path.unlink()


def _sync(path: Path) -> None:
    if os.name != "posix":
        return  # Windows opens no folders and syncs nothing that is open for reading
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

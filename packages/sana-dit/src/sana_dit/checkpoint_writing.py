"""Folders of a transformer that are written whole or not at all, and the card of one on the Hub."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from sana_dit.checkpoint_reading import CONFIG, EXTRAS, FACTS, WEIGHTS

SAVED_WEIGHTS = (f"{WEIGHTS}*.safetensors*", EXTRAS)
"""Patterns of what a save writes, or an earlier one wrote, beside the configuration."""


@contextmanager
def replacing_files(directory: Path) -> Iterator[Path]:
    """Yields an empty folder; what is in it at the end replaces the checkpoint in `directory`.

    A new directory appears at once. In an existing one file after file is replaced, config.json last, and weights
    of an earlier save that the new one lacks are removed. If the body raises, nothing has changed.
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


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Writes a JSON object as people read it."""
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def write_shards(directory: Path, weights: Mapping[str, Tensor], *, max_shard_size: int | str) -> None:
    """Writes weights as diffusers does: in one file, or in several with an index where one would be too large."""
    split = split_torch_state_dict_into_shards(
        dict(weights), filename_pattern=WEIGHTS + "{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for filename, names in split.filename_to_tensors.items():
        shard = {name: weights[name].contiguous() for name in names}
        save_file(shard, directory / filename, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(directory / f"{WEIGHTS}.safetensors.index.json", index)


def model_card(repo: str, num_parameters: int) -> str:
    """Returns a short README.md for a transformer on the Hub."""
    return f"""---
library_name: sana-dit
pipeline_tag: text-to-image
tags: [sana, diffusers]
---

# {repo.rpartition("/")[2]}

A SANA transformer of {num_parameters / 1e6:,.1f}M parameters.

```python
from sana_dit import SanaTransformer

model = SanaTransformer.from_pretrained("{repo}")
```

`diffusers.SanaTransformer2DModel.from_pretrained("{repo}")` loads it too.
"""


def _move_into(staging: Path, directory: Path) -> None:
    new = {path.name for path in staging.iterdir()}
    # The configuration last, so that it never describes weights that are still to come.
    for name in sorted(new, key=lambda name: (name in (CONFIG, FACTS), name)):
        os.replace(staging / name, directory / name)
    for pattern in SAVED_WEIGHTS:
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

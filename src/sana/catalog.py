"""The public Sana checkpoints by name: where each is, what it is, and how it wants to be sampled."""

import difflib
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from sana.resolution import resolution_bins
from sana_dit import (
    SANA_0_6B,
    SANA_1_5_1_6B,
    SANA_1_5_4_8B,
    SANA_1_6B,
    SANA_1_6B_2K,
    SANA_1_6B_4K,
    SANA_SPRINT_0_6B,
    SANA_SPRINT_1_6B,
    SanaConfig,
)

EMBEDDED = "embedded"
ORGANIZATION = "Efficient-Large-Model"
LICENCE = "NSCL v2-custom (NVIDIA, restricted); text encoder: Gemma terms"

GEMMA_2_2B: dict[str, Any] = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
}
"""Fields of transformers' Gemma2Config: the caption encoder of every public checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A public checkpoint.

    Attributes:
        name: What the commands and `SanaPipeline.from_pretrained` call it.
        repository: Hub repository in diffusers' layout.
        config: The transformer's configuration.
        flow_shift: Shift of the noise levels; Sprint has none.
        dtype: The published weights' dtype: weights in one half precision break in the other.
        compat: Whose numbers its files give, see `SanaConfig`.
        revision: Branch, tag or commit of the repository.
        licence: The weights' licence.
    """

    name: str
    repository: str
    config: SanaConfig
    flow_shift: float | None = 3.0
    dtype: str = "bfloat16"
    compat: str = "diffusers"
    revision: str = "main"
    licence: str = LICENCE

    @property
    def pixels(self) -> int:
        """Nominal pixels a side."""
        return 32 * self.config.sample_size

    @property
    def bins(self) -> list[tuple[int, int]]:
        """The (height, width) in pixels that it was trained at."""
        return resolution_bins(self.config.sample_size) or []


def _checkpoint(name: str, repository: str, config: SanaConfig, **more: str | float | None) -> Checkpoint:
    return Checkpoint(name=name, repository=f"{ORGANIZATION}/{repository}_diffusers", config=config, **more)  # type: ignore[arg-type]


_0_6B_512, _1_6B_512 = (replace(config, sample_size=16) for config in (SANA_0_6B, SANA_1_6B))
_SPRINT = {"flow_shift": None}
_FP16 = {"dtype": "float16"}

CHECKPOINTS = (
    _checkpoint("sana-0.6b-512", "Sana_600M_512px", _0_6B_512, **_FP16),
    _checkpoint("sana-0.6b-1024", "Sana_600M_1024px", SANA_0_6B, **_FP16),
    _checkpoint("sana-1.6b-512", "Sana_1600M_512px", _1_6B_512, **_FP16),
    _checkpoint("sana-1.6b-512-multiling", "Sana_1600M_512px_MultiLing", _1_6B_512, **_FP16),
    _checkpoint("sana-1.6b-1024-fp16", "Sana_1600M_1024px", SANA_1_6B, **_FP16),
    _checkpoint("sana-1.6b-1024-multiling", "Sana_1600M_1024px_MultiLing", SANA_1_6B, **_FP16),
    _checkpoint("sana-1.6b-1024", "Sana_1600M_1024px_BF16", SANA_1_6B),
    _checkpoint("sana-1.6b-2k", "Sana_1600M_2Kpx_BF16", SANA_1_6B_2K),
    _checkpoint("sana-1.6b-4k", "Sana_1600M_4Kpx_BF16", SANA_1_6B_4K, flow_shift=6.0),
    _checkpoint("sana-1.5-1.6b-1024", "SANA1.5_1.6B_1024px", SANA_1_5_1_6B),
    _checkpoint("sana-1.5-4.8b-1024", "SANA1.5_4.8B_1024px", SANA_1_5_4_8B),
    _checkpoint("sana-sprint-0.6b-1024", "Sana_Sprint_0.6B_1024px", SANA_SPRINT_0_6B, **_SPRINT),
    _checkpoint("sana-sprint-1.6b-1024", "Sana_Sprint_1.6B_1024px", SANA_SPRINT_1_6B, **_SPRINT),
)
_BY_NAME = {checkpoint.name: checkpoint for checkpoint in CHECKPOINTS}


def find(name: str) -> Checkpoint | None:
    """Returns the checkpoint of a name; None for anything else, such as a folder or a Hub id."""
    return _BY_NAME.get(name)


def locate(name: str | Path, revision: str | None = None) -> tuple[str | Path, str | None]:
    """Returns where a model is, a folder or Hub id and its revision: names of the catalog resolved, others as given.

    A folder of that name in the current one comes before the catalog, "embedded" does not.

    Raises:
        ValueError: A revision is given for something that is not a repository.
    """
    if revision is not None and (name == EMBEDDED or Path(name).exists()):
        raise ValueError(f"revision is {revision!r}, but {name} is on this machine and has none: leave it out")
    if name == EMBEDDED:
        return str(files("sana") / "embedded"), None
    checkpoint = None if Path(name).is_dir() else find(str(name))
    return (name, revision) if checkpoint is None else (checkpoint.repository, revision or checkpoint.revision)


def nearest(name: str) -> str | None:
    """Returns the name in the catalog that was probably meant, if any comes near; a Hub id comes near a repository."""
    known = {EMBEDDED: EMBEDDED} | {checkpoint.name: checkpoint.name for checkpoint in CHECKPOINTS}
    known |= {checkpoint.repository.lower(): checkpoint.name for checkpoint in CHECKPOINTS}
    found = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.8 if "/" in name else 0.5)
    return known[found[0]] if found else None


def public_name(source: str | Path) -> str:
    """Returns what others may know a model by: the Hub id, "embedded", or the last part of a local path."""
    found = locate(source)[0]
    return str(source) if source == EMBEDDED else Path(found).name if Path(found).exists() else str(found)

"""What a model's files state without being loaded: the dtype of its weights, and the licence on its card."""

import math
import re
from collections import Counter
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from safetensors import safe_open
from yaml import YAMLError  # what ModelCard raises

from sana.pipeline_folder import find_file, read_json
from sana.publishing.card_problems import CARD

_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SHARD = r"(?:-\d{5}-of-\d{5})?"
_NAME = re.compile(rf"(?:diffusion_pytorch_)?model{_SHARD}(?:\.(?P<variant>\w+))?{_SHARD}\.safetensors")


def weights_dtype(repo_or_dir: str | Path, part: str, revision: str | None = None) -> str | None:
    """Returns what most weights of a part are stored in, such as "bfloat16"; None where that cannot be known.

    Of a Hub id it reads the header of one file.
    """
    folder = Path(repo_or_dir) / part
    counts = _local_counts(folder) if folder.is_dir() else _hub_counts(str(repo_or_dir), part, revision)
    if not counts:
        return None
    most = counts.most_common(1)[0][0]
    return _DTYPES.get(most, most)


def only_variant(folder: Path) -> str | None:
    """Returns what diffusers has to be told where a part's weights are there as a variant alone, such as "fp16"."""
    variants: dict[Path, set[str | None]] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        if match := _NAME.fullmatch(path.name):
            variants.setdefault(path.parent, set()).add(match["variant"])
    return next((min(filter(None, found)) for found in variants.values() if None not in found), None)


def stated_licence(repo_or_dir: str | Path, revision: str | None = None) -> str | None:
    """Returns the licence that the card of a folder or Hub id names; None where there is none."""
    path = find_file(repo_or_dir, CARD, revision)
    try:
        header = {} if path is None else vars(ModelCard(path.read_text(encoding="utf-8")).data)
    except (ValueError, YAMLError):
        return None
    licence, name, link = (header.get(key) for key in ("license", "license_name", "license_link"))
    return f"{name or licence}{f' ({link})' if link else ''}" if licence else None


def _local_counts(folder: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                weight = file.get_slice(key)
                counts[weight.get_dtype()] += math.prod(weight.get_shape())
    return counts


def _hub_counts(repo: str, part: str, revision: str | None) -> Counter[str]:
    try:
        index = read_json(repo, f"{part}/{_WEIGHTS}.index.json", revision) or {}
        name = next(iter(index.get("weight_map", {}).values()), _WEIGHTS)
        header = HfApi().parse_safetensors_file_metadata(repo, f"{part}/{name}", revision=revision)
    except Exception:  # no such file, no network: what huggingface_hub raises differs from release to release
        return Counter()
    return Counter(header.parameter_count)

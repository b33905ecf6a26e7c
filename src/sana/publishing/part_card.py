"""The card of a transformer, autoencoder or judge by itself, by what config.json says and the files hold."""

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open

from sana.pipeline_folder import read_json
from sana.publishing.stated_facts import only_variant


@dataclass(frozen=True, kw_only=True, slots=True)
class PartKind:
    """A class of model: what it is, what the Hub calls its task, and where it is loaded from."""

    what: str
    task: str | None
    library: str
    name: str
    in_diffusers: str | None = None


_KINDS = {
    "SanaTransformer2DModel": PartKind(
        what="The diffusion transformer of a Sana pipeline",
        task="text-to-image",
        library="sana_dit",
        name="SanaTransformer",
        in_diffusers="SanaTransformer2DModel",
    ),
    "AutoencoderDC": PartKind(
        what="A deep-compression autoencoder (DC-AE)",
        task=None,
        library="sana_ae",
        name="DCAE",
        in_diffusers="AutoencoderDC",
    ),
    "VILAForCausalLM": PartKind(
        what="A judge of how well an image shows its prompt",
        task="image-text-to-text",
        library="sana_judge",
        name="VILAJudge",
    ),
}


def render_part_card(
    folder: Path,
    repo: str,
    *,
    header: ModelCardData,
    what: str | None,
    limits: str | None,
    training_data: str | None,
    lineage: list[str],
) -> str:
    """Returns the text of the card of a model that is not a pipeline.

    Args:
        folder: As the model's `save_pretrained` writes it.
        repo: Hub id that it gets.
        header: With the licence; the card's has the kind of the model besides.
        what: A sentence on what it does; None says only what it is.
        limits: What it cannot do.
        training_data: What it was trained on.
        lineage: Sentences on what it was made from.

    Raises:
        FileNotFoundError: The folder has no config.json.
        ValueError: It is of a model that no card is known for.
    """
    config = read_json(folder, "config.json")
    if config is None:
        raise FileNotFoundError(f"{folder} has neither model_index.json nor config.json: it holds no model")
    kind = part_kind(config)
    if kind is None:
        raise ValueError(
            f"{folder / 'config.json'} is that of a {_class_name(config)}; cards are made for {', '.join(_KINDS)} and "
            "for pipelines: write a README.md, and leave --license out"
        )
    header = copy(header)
    header.pipeline_tag = kind.task
    header.tags = ["sana", *(["diffusers"] if kind.in_diffusers else [])]
    text = ModelCard.from_template(
        header,
        template_path=str(files("sana") / "model_cards" / "part.md"),
        title=repo.rpartition("/")[2],
        repo=repo,
        kind=kind,
        variant=only_variant(folder),
        what=what or f"{kind.what}, {_parameters(folder):,} parameters.",
        lineage=lineage,
        training_data=training_data,
        limits=limits,
        licence_text=header.license_name or header.license,
        licence_link=header.license_link,
    ).content
    return str(text)


def part_kind(config: Mapping[str, Any]) -> PartKind | None:
    """Returns which transformer, autoencoder or judge a config.json describes; None for anything else."""
    return _KINDS.get(_class_name(config))


def _class_name(config: Mapping[str, Any]) -> str:
    return str(config.get("_class_name") or next(iter(config.get("architectures") or []), None))


def _parameters(folder: Path) -> int:
    """Counted from the headers of all weights in the folder."""
    count = 0
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            count += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return count

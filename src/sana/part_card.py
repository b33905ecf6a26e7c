"""The card of a transformer, autoencoder or judge by itself, by what config.json says and the files hold."""

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open

from sana.pipeline_folder import read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """A class of model: what it is, what the Hub calls its task, and where it is loaded from."""

    what: str
    task: str | None
    library: str
    name: str
    in_diffusers: str | None = None


_KINDS = {
    "SanaTransformer2DModel": _Kind(
        what="The diffusion transformer of a Sana pipeline",
        task="text-to-image",
        library="sana_dit",
        name="SanaTransformer",
        in_diffusers="SanaTransformer2DModel",
    ),
    "AutoencoderDC": _Kind(
        what="A deep-compression autoencoder (DC-AE)",
        task=None,
        library="sana_ae",
        name="DCAE",
        in_diffusers="AutoencoderDC",
    ),
    "VILAForCausalLM": _Kind(
        what="A judge of how well a picture shows its prompt",
        task="image-text-to-text",
        library="sana_judge",
        name="VILAJudge",
    ),
}


def render_part_card(
    folder: Path,
    repo: str,
    *,
    licence: ModelCardData,
    what: str | None,
    limits: str | None,
    training_data: str | None,
    lineage: list[str],
) -> str:
    """Returns the text of the card of a model that is no pipeline.

    Args:
        folder: As the model's `save_pretrained` writes it.
        repo: Hub id that it gets.
        licence: The card's header, to which the kind of the model is added.
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
    name = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    kind = _KINDS.get(str(name))
    if kind is None:
        raise ValueError(
            f"{folder / 'config.json'} is that of a {name}; cards are made for {', '.join(_KINDS)} and for pipelines: "
            "write a README.md, and leave --license out"
        )
    licence.pipeline_tag = kind.task
    licence.tags = ["sana", *(["diffusers"] if kind.in_diffusers else [])]
    text = ModelCard.from_template(
        licence,
        template_path=str(files("sana") / "model_cards" / "part.md"),
        title=repo.rpartition("/")[2],
        repo=repo,
        kind=kind,
        what=what or f"{kind.what}, {_parameters(folder):,} parameters.",
        lineage=lineage,
        training_data=training_data,
        limits=limits,
        licence_text=licence.license_name or licence.license,
        licence_link=licence.license_link,
    ).content
    return str(text)


def _parameters(folder: Path) -> int:
    """Counted from the headers of all weights in the folder."""
    count = 0
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            count += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return count

"""The transformer of a training run: from a checkpoint, or with random weights."""

from dataclasses import replace
from pathlib import Path

import torch

from sana.catalog import locate
from sana.pipeline_folder import INDEX, read_json
from sana.training.settings import ModelSettings
from sana_dit import SanaConfig, SanaTransformer
from sana_dit.diffusers_config import from_diffusers_config

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def model_config(settings: ModelSettings) -> SanaConfig:
    """The shape of the transformer, from the configuration of its checkpoint where it has one; reads no weights.

    Raises:
        ValueError: it is a Sprint model, which flow matching does not train.
    """
    config = replace(settings.config or _checkpoint_config(str(settings.init)), **settings.positions)
    if config.guidance_embeds:
        raise ValueError(
            f"[model] {settings.init or 'preset'} is a Sprint model, which is distilled and has its guidance as an "
            "input: train one without, such as SANA_1_5_1_6B"
        )
    return config


def make_model(settings: ModelSettings, *, seed: int, device: torch.device) -> SanaTransformer:
    """The transformer on `device`, from its checkpoint or with random weights: the same for a seed on every device."""
    dtype = DTYPES[settings.weights]
    if settings.init is not None:
        place, revision = locate(settings.init)
        model = SanaTransformer.from_pretrained(place, revision=revision, dtype=dtype, device=device)
        return repositioned(model, replace(model.config, **settings.positions))
    assert settings.config is not None
    torch.manual_seed(seed)
    return SanaTransformer(settings.config).to(device=device, dtype=dtype)


def repositioned(model: SanaTransformer, config: SanaConfig) -> SanaTransformer:
    """The same weights in a model whose `config` differs in its positions."""
    if config == model.config:
        return model
    with torch.device("meta"):
        other = SanaTransformer(config)
    other.load_state_dict(model.state_dict(), assign=True)
    other.null_caption = model.null_caption
    return other


def _checkpoint_config(init: str) -> SanaConfig:
    place, revision = locate(init)
    if Path(place).is_file():
        return SanaTransformer.from_pretrained(place, device="meta").config  # from the names and shapes
    within = "transformer/" if read_json(place, INDEX, revision) else ""
    fields = read_json(place, f"{within}config.json", revision)
    if fields is None:
        raise FileNotFoundError(f"{init} has no {within}config.json: give the folder or Hub id of a Sana transformer")
    facts = read_json(place, f"{within}sana.json", revision) or {}
    config = from_diffusers_config(fields, where=f"{place}/{within}config.json")
    return replace(config, compat=facts.get("compat", "diffusers"))

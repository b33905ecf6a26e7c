"""What a pipeline is and costs, counted from its configuration on tensors without data; no weights are read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, Gemma2Config, PretrainedConfig

from sana.catalog import GEMMA_2_2B, Checkpoint, find, locate
from sana.hub_absence import absence_explained
from sana.pipeline_folder import INDEX, PipelineFacts, check_components, read_facts, read_json
from sana.publishing.part_card import part_kind
from sana.publishing.stated_facts import stated_licence, weights_dtype
from sana.resolution import resolution_bins
from sana_ae import DC_AE_F32C32_SANA_1_1, DCAE, DCAEConfig
from sana_dit import SanaTransformer
from sana_dit.caption_facts import CaptionFacts
from sana_dit.diffusers_config import from_diffusers_config

CHI_TOKENS = 217  # an estimate of what the instruction adds: no tokenizer is read here


@dataclass(frozen=True, kw_only=True, slots=True)
class _Networks:
    """The networks, and what else their folder says."""

    autoencoder: DCAE
    transformer: SanaTransformer
    text_encoder: PretrainedConfig
    captions: CaptionFacts
    facts: PipelineFacts


def model_facts(repo_or_dir: str, *, revision: str | None = None) -> dict[str, Any]:
    """Parameters, FLOPs per picture (2 per multiply-add) and shapes of each component, and where the model is.

    Those of a checkpoint of the catalog are known here; of other Hub ids, and of another revision, the configuration
    files are fetched.

    Raises:
        FileNotFoundError: there is no such model or revision, or it is out of reach.
        ValueError: it is a part of a pipeline, or its configuration is none that Sana has.
    """
    checkpoint = None if revision is not None or Path(repo_or_dir).is_dir() else find(repo_or_dir)
    place, revision = locate(repo_or_dir, revision)
    with absence_explained(place, revision):
        networks = _of_folder(str(place), revision) if checkpoint is None else _of_checkpoint(checkpoint)
        licence = stated_licence(place, revision) if checkpoint is None else checkpoint.licence
    autoencoder, transformer = networks.autoencoder, networks.transformer
    config, facts, f = transformer.config, networks.facts, autoencoder.config.compression
    steps, side = facts.steps_for(config.guidance_embeds), config.sample_size
    branches = 1 if config.guidance_embeds or facts.guidance_scale <= 1 else 2
    latents = torch.empty(1, config.in_channels, side, side, device="meta")
    captions = networks.captions
    words = captions.max_tokens + (CHI_TOKENS if captions.chi else 0)
    condition = torch.empty(1, captions.max_tokens, config.caption_channels, device="meta")
    time = torch.empty(1, device="meta")
    guidance = (time,) if config.guidance_embeds else ()
    with _naming(f"{place}/text_encoder/config.json"):
        reading = _text_encoder(networks.text_encoder, words, f"{words} tokens x {config.caption_channels}")
    components = {
        "text_encoder": reading,
        "transformer": _part(
            transformer,
            lambda: transformer(latents, time, condition, torch.ones(condition.shape[:2], device="meta"), *guidance),
            steps * branches,
            f"{config.num_layers} layers x {config.width}, {side * side} image tokens, {branches * steps} evaluations",
        ),
        "autoencoder": _part(
            autoencoder, lambda: autoencoder.decode(latents), 1, f"f{f}c{config.in_channels}, one decode"
        ),
    }
    return {
        "repository": str(place),
        "revision": revision,
        "licence": licence,
        "dtype": weights_dtype(place, "transformer", revision) if checkpoint is None else checkpoint.dtype,
        "components": components,
        "parameters": sum(part["parameters"] for part in components.values()),
        "flops_per_picture": sum(part["flops_per_picture"] for part in components.values()),
        "height": side * f,
        "width": side * f,
        "steps": steps,
        "guidance_scale": facts.guidance_scale,
        "flow_shift": None if config.guidance_embeds else facts.flow_shift,
        "compat": config.compat,
        "bins": resolution_bins(side),
        "chi": captions.chi,
    }


def _of_checkpoint(checkpoint: Checkpoint) -> _Networks:
    with torch.device("meta"):
        return _Networks(
            autoencoder=DCAE(DC_AE_F32C32_SANA_1_1),
            transformer=SanaTransformer(checkpoint.config),
            text_encoder=Gemma2Config(**GEMMA_2_2B),
            captions=CaptionFacts(),
            facts=PipelineFacts(flow_shift=checkpoint.flow_shift or 1.0),
        )


def _of_folder(folder: str, revision: str | None) -> _Networks:
    if Path(folder).is_dir():
        _check_whole(folder, revision)
    check_components(folder)
    names = ("vae", "transformer", "text_encoder")
    configs = {name: read_json(folder, f"{name}/config.json", revision) for name in names}
    for name, config in configs.items():
        if config is None:
            _check_whole(folder, revision)
            raise FileNotFoundError(f"{folder} has no {name}/config.json: give a pipeline in diffusers' layout")
    own = "text_encoder/sana.json"
    captions = CaptionFacts.from_json(read_json(folder, own, revision) or {}, where=f"{folder}/{own}")
    text = configs["text_encoder"] or {}
    if "model_type" not in text:
        raise ValueError(f"{folder}/text_encoder/config.json names no model_type: download it again")
    compat = (read_json(folder, "transformer/sana.json", revision) or {}).get("compat", "diffusers")
    shape = from_diffusers_config(configs["transformer"] or {}, where=f"{folder}/transformer/config.json")
    with _naming(f"{folder}/transformer/sana.json"):
        shape = replace(shape, compat=compat)
    with _naming(f"{folder}/text_encoder/config.json"):
        text_encoder = AutoConfig.for_model(**text)
    with torch.device("meta"):
        return _Networks(
            autoencoder=DCAE(DCAEConfig.from_dict(configs["vae"] or {}, where=f"{folder}/vae/config.json")),
            transformer=SanaTransformer(shape),
            text_encoder=text_encoder,
            captions=captions or CaptionFacts(),
            facts=read_facts(folder, revision=revision),
        )


@contextmanager
def _naming(file: str) -> Iterator[None]:
    """Turns whatever the values of a file raise, in transformers errors of many kinds, into one line that names it."""
    try:
        yield
    except (ImportError, MemoryError, OSError):
        raise
    except Exception as error:
        told = shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
        raise ValueError(f"{file} describes nothing that can be made ({told})") from error


def _check_whole(folder: str, revision: str | None) -> None:
    """Raise ValueError where it is one part of a pipeline, or a judge; says which, and what loads it."""
    kind = None if read_json(folder, INDEX, revision) else part_kind(read_json(folder, "config.json", revision) or {})
    if kind is not None:
        raise ValueError(
            f"{folder} is no pipeline but one model: {kind.what}, which {kind.library}.{kind.name}.from_pretrained "
            "loads: give the pipeline that it belongs to"
        )


def _text_encoder(config: PretrainedConfig, words: int, shape: str) -> dict[str, Any]:
    # Gemma of transformers 4 asks for autocast, which the meta device has not.
    with FakeTensorMode():
        model = AutoModel.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
        tokens = torch.zeros(1, words, dtype=torch.long)
        return _part(model, lambda: model(tokens), 1, shape)


def _part(module: nn.Module, run: Callable[[], object], evaluations: int, shape: str) -> dict[str, Any]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    parameters = sum(weight.numel() for weight in module.parameters())
    return {"parameters": parameters, "flops_per_picture": counter.get_total_flops() * evaluations, "shape": shape}

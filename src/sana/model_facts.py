"""What a pipeline is and costs, counted from its configuration on tensors without data; no weights are read."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, Gemma2Config, PretrainedConfig

from sana.catalog import GEMMA_2_2B, Checkpoint, find, locate
from sana.hub_absence import absence_explained
from sana.pipeline_folder import PipelineFacts, check_components, read_facts, read_json
from sana.resolution import resolution_bins
from sana_ae import DC_AE_F32C32_SANA_1_1, DCAE, DCAEConfig
from sana_dit import SanaTransformer
from sana_dit.diffusers_config import from_diffusers_config

_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
CHI_TOKENS = 217  # an estimate of what the instruction adds: no tokenizer is read here


@dataclass(frozen=True, kw_only=True, slots=True)
class _Networks:
    """The networks, the tokens that a caption keeps, whether the instruction precedes it, and the facts."""

    autoencoder: DCAE
    transformer: SanaTransformer
    text_encoder: PretrainedConfig
    max_tokens: int
    chi: bool
    facts: PipelineFacts


def model_facts(repo_or_dir: str) -> dict[str, Any]:
    """Parameters, FLOPs per picture (2 per multiply-add) and shapes of each component, and where the model is.

    Those of a checkpoint of the catalog are known here; of other Hub ids the configuration files are fetched.
    """
    checkpoint = None if Path(repo_or_dir).is_dir() else find(repo_or_dir)
    place, revision = locate(repo_or_dir)
    with absence_explained(place):
        networks = _of_folder(str(place)) if checkpoint is None else _of_checkpoint(checkpoint)
    autoencoder, transformer = networks.autoencoder, networks.transformer
    config, facts, f = transformer.config, networks.facts, autoencoder.config.compression
    steps, side = facts.steps_for(config.guidance_embeds), config.sample_size
    branches = 1 if config.guidance_embeds or facts.guidance_scale <= 1 else 2
    latents = torch.empty(1, config.in_channels, side, side, device="meta")
    words = networks.max_tokens + (CHI_TOKENS if networks.chi else 0)
    condition = torch.empty(1, networks.max_tokens, config.caption_channels, device="meta")
    time = torch.empty(1, device="meta")
    guidance = (time,) if config.guidance_embeds else ()
    components = {
        "text_encoder": _text_encoder(networks.text_encoder, words, f"{words} tokens x {config.caption_channels}"),
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
        "licence": None if checkpoint is None else checkpoint.licence,
        "dtype": weights_dtype(Path(place) / "transformer") if checkpoint is None else checkpoint.dtype,
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
        "chi": networks.chi,
    }


def weights_dtype(folder: Path) -> str | None:
    """Returns what most weights in a local folder are stored in, such as "bfloat16"; None where there are none."""
    counts: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                weight = file.get_slice(key)
                counts[_DTYPES.get(weight.get_dtype(), weight.get_dtype())] += math.prod(weight.get_shape())
    return counts.most_common(1)[0][0] if counts else None


def _of_checkpoint(checkpoint: Checkpoint) -> _Networks:
    with torch.device("meta"):
        return _Networks(
            autoencoder=DCAE(DC_AE_F32C32_SANA_1_1),
            transformer=SanaTransformer(checkpoint.config),
            text_encoder=Gemma2Config(**GEMMA_2_2B),
            max_tokens=300,
            chi=True,
            facts=PipelineFacts(flow_shift=checkpoint.flow_shift or 1.0),
        )


def _of_folder(folder: str) -> _Networks:
    check_components(folder)
    configs = {name: read_json(folder, f"{name}/config.json") for name in ("vae", "transformer", "text_encoder")}
    for name, config in configs.items():
        if config is None:
            raise FileNotFoundError(f"{folder} has no {name}/config.json")
    captions = (read_json(folder, "text_encoder/sana.json") or {}).get("captions", {})
    max_tokens = captions.get("max_tokens", 300)
    text = configs["text_encoder"] or {}
    if "model_type" not in text:
        raise ValueError(f"{folder}/text_encoder/config.json names no model_type: download it again")
    compat = (read_json(folder, "transformer/sana.json") or {}).get("compat", "diffusers")
    with torch.device("meta"):
        return _Networks(
            autoencoder=DCAE(DCAEConfig.from_dict(configs["vae"] or {})),
            transformer=SanaTransformer(replace(from_diffusers_config(configs["transformer"] or {}), compat=compat)),
            text_encoder=AutoConfig.for_model(**text),
            max_tokens=max_tokens,
            chi=captions.get("chi", True),
            facts=read_facts(folder),
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

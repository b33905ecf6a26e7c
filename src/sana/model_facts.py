"""What a pipeline is and costs, counted from its configuration on tensors without data; no weights are read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, Gemma2Config, PretrainedConfig

from sana.catalog import GEMMA_2_2B, Checkpoint, find, locate
from sana.hub_absence import suggesting_names
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
class PartFacts:
    """What a component is and costs.

    Attributes:
        parameters: How many it has.
        flops_per_image: 2 per multiply-add, of all its evaluations.
        shape: In words.
    """

    parameters: int
    flops_per_image: int
    shape: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What a pipeline is and costs, and how it is sampled unless a call says otherwise.

    Attributes:
        repository: Folder or Hub id.
        revision: Branch, tag or commit of the Hub repository.
        licence: Of the weights; None where none is stated.
        dtype: That most weights of the transformer are stored in; None where that cannot be known.
        components: By name, in the order in which they run.
        height: Pixels.
        width: Pixels.
        steps: Evaluations per picture, of two branches each with guidance above 1.
        guidance_scale: Of classifier-free guidance; Sprint's input.
        flow_shift: Shift of the noise levels; Sprint has none.
        compat: Whose numbers the files give, see `SanaConfig`.
        bins: The (height, width) in pixels that it was trained at; None for a size that is not public.
        chi: Whether the complex human instruction comes before a prompt.
    """

    repository: str
    revision: str | None
    licence: str | None
    dtype: str | None
    components: dict[str, PartFacts]
    height: int
    width: int
    steps: int
    guidance_scale: float
    flow_shift: float | None
    compat: str
    bins: list[tuple[int, int]] | None
    chi: bool

    @property
    def parameters(self) -> int:
        """Of all components."""
        return sum(part.parameters for part in self.components.values())

    @property
    def flops_per_image(self) -> int:
        """Of all components."""
        return sum(part.flops_per_image for part in self.components.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Networks:
    """The networks, and what else their folder says."""

    autoencoder: DCAE
    transformer: SanaTransformer
    text_encoder: PretrainedConfig
    captions: CaptionFacts
    facts: PipelineFacts


def model_facts(repo_or_dir: str, *, revision: str | None = None) -> ModelFacts:
    """Counts what a pipeline has and costs, and reads how it is sampled.

    Those of a checkpoint of the catalog are known here; of other Hub ids, and of another revision, the configuration
    files are fetched.

    Raises:
        FileNotFoundError: There is no such model or revision, or it is out of reach.
        PermissionError: The Hub does not take the token, or the model is gated.
        ValueError: It is a part of a pipeline, or its configuration is not one that Sana has.
    """
    checkpoint = None if revision is not None or Path(repo_or_dir).is_dir() else find(repo_or_dir)
    place, revision = locate(repo_or_dir, revision)
    with suggesting_names(place, revision):
        networks = _of_folder(str(place), revision) if checkpoint is None else _of_checkpoint(checkpoint)
        licence = stated_licence(place, revision) if checkpoint is None else checkpoint.licence
    config, facts = networks.transformer.config, networks.facts
    pixels = config.sample_size * networks.autoencoder.config.compression
    return ModelFacts(
        repository=str(place),
        revision=revision,
        licence=licence,
        dtype=weights_dtype(place, "transformer", revision) if checkpoint is None else checkpoint.dtype,
        components=_components(networks, place),
        height=pixels,
        width=pixels,
        steps=facts.steps_for(config.guidance_embeds),
        guidance_scale=facts.guidance_scale,
        flow_shift=None if config.guidance_embeds else facts.flow_shift,
        compat=config.compat,
        bins=resolution_bins(config.sample_size),
        chi=networks.captions.chi,
    )


def _components(networks: _Networks, place: str | Path) -> dict[str, PartFacts]:
    autoencoder, transformer, captions = networks.autoencoder, networks.transformer, networks.captions
    config, facts = transformer.config, networks.facts
    side, f = config.sample_size, autoencoder.config.compression
    branches = 1 if config.guidance_embeds or facts.guidance_scale <= 1 else 2
    evaluations = branches * facts.steps_for(config.guidance_embeds)
    words = captions.max_tokens + (CHI_TOKENS if captions.chi else 0)
    latents = torch.empty(1, config.in_channels, side, side, device="meta")
    condition = torch.empty(1, captions.max_tokens, config.caption_channels, device="meta")
    mask = torch.ones(condition.shape[:2], device="meta")
    time = torch.empty(1, device="meta")
    guidance = (time,) if config.guidance_embeds else ()
    with _naming(f"{place}/text_encoder/config.json"):
        reading = _text_encoder(networks.text_encoder, words, f"{words} tokens x {config.caption_channels}")
    return {
        "text_encoder": reading,
        "transformer": _part(
            transformer,
            lambda: transformer(latents, time, condition, mask, *guidance),
            evaluations,
            f"{config.num_layers} layers x {config.width}, {side * side} image tokens, {evaluations} evaluations",
        ),
        "autoencoder": _part(
            autoencoder, lambda: autoencoder.decode(latents), 1, f"f{f}c{config.in_channels}, one decode"
        ),
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
        raise ValueError(f"{file} does not describe a model that can be built ({told})") from error


def _check_whole(folder: str, revision: str | None) -> None:
    """Raise ValueError where it is one part of a pipeline, or a judge; says which, and what loads it."""
    kind = None if read_json(folder, INDEX, revision) else part_kind(read_json(folder, "config.json", revision) or {})
    if kind is not None:
        raise ValueError(
            f"{folder} is not a pipeline but one model: {kind.what}, which {kind.library}.{kind.name}.from_pretrained "
            "loads: give the pipeline that it belongs to"
        )


def _text_encoder(config: PretrainedConfig, words: int, shape: str) -> PartFacts:
    # Gemma of transformers 4 asks for autocast, which the meta device has not.
    with FakeTensorMode():
        model = AutoModel.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
        tokens = torch.zeros(1, words, dtype=torch.long)
        return _part(model, lambda: model(tokens), 1, shape)


def _part(module: nn.Module, run: Callable[[], object], evaluations: int, shape: str) -> PartFacts:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    parameters = sum(weight.numel() for weight in module.parameters())
    flops = counter.get_total_flops() * evaluations
    return PartFacts(parameters=parameters, flops_per_image=flops, shape=shape)

"""The objects of a training run, made from its settings: model, objective, optimizer, batches and their trainer."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from sana.catalog import locate
from sana.growing_runs import grown_optimizer, growth_facts
from sana.pipeline_folder import INDEX, read_json
from sana.run_settings import (
    POSITIONS,
    AdamWSettings,
    CAME8bitSettings,
    ModelSettings,
    OptimizerSettings,
    RunSettings,
)
from sana.shard_stamps import proved_stamps, stamps
from sana.training_samples import TrainingSamples
from sana_ae import DCAE
from sana_dit import CaptionEncoder, SanaConfig, SanaTransformer
from sana_dit.diffusers_config import from_diffusers_config
from sana_train import CAME, CAME8bit, FlowMatching, FlowValidation, LatentShards, Trainer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make_trainer(
    settings: RunSettings, *, device: torch.device, resume: bool = False, allow_changes: bool = False
) -> Trainer:
    """The trainer of a run, ready to `fit()`.

    Args:
        settings: of the run.
        device: where this process trains.
        resume: go on from the newest checkpoint of the run's folder, if it has one.
        allow_changes: go on even where the settings are not those that the run was started with, or the shards have
            another size or time.

    Raises:
        FileNotFoundError: data or a checkpoint is not there.
        ValueError: data and model do not go together, a shard has changed since it was written, or a caption to stand
            for dropped ones is missing.
        CheckpointError: the run cannot be resumed with these settings.
    """
    samples_per_pass(settings, dist.get_world_size() if dist.is_initialized() else 1)
    data = training_data(settings)
    check_data(data, model_config(settings.model), settings.data.shards)
    model = make_model(settings.model, seed=settings.train.seed, device=device)
    encoder = _caption_encoder(settings, model)
    objective = make_objective(settings, model, encoder, tokens=data.caption_shape[0])
    make = Trainer.start_or_resume if resume else Trainer
    options = {"allow_changes": allow_changes} if resume else {}
    known = stamps(data)
    if resume and not allow_changes:
        known = proved_stamps(data, Path(settings.train.run_dir), progress=settings.train.progress)
    return make(
        model,
        objective,
        lambda prepared: grown_optimizer(
            make_optimizer(prepared, settings.optimizer, seed=settings.train.seed), prepared, settings.growth
        ),
        data,
        settings.train,
        validation=_validation(settings, model.config, objective),
        sample=_samples(settings, model, encoder, device),
        settings=fixed_settings(settings, data) | growth_facts(settings.growth) | {"shard_stamps": known},
        **options,
    )


def training_data(settings: RunSettings) -> LatentShards:
    """The shards of [data] in the order of the run."""
    chosen = settings.data
    return LatentShards(chosen.shards, batch_size=chosen.batch_size, seed=chosen.seed, captions=chosen.captions())


def fixed_settings(settings: RunSettings, data: LatentShards) -> dict[str, Any]:
    """What decides what a run learns, apart from [train] and [optimizer]: a resumed run must have the same."""
    shards = [[header.path.name, header.samples, header.sha256] for header in data.headers]
    config = model_config(settings.model)
    return {
        "objective": asdict(settings.objective),
        "data": asdict(settings.data) | {"shards": shards},
        "weights": settings.model.weights,
        "positions": {name: getattr(config, name) for name in POSITIONS},
    }


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
        model = SanaTransformer.from_pretrained(checkpoint_folder(settings.init), dtype=dtype, device=device)
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


def make_optimizer(model: nn.Module, settings: OptimizerSettings, *, seed: int) -> Optimizer:
    """The optimizer of the parameters that `model` has now, sharded or not."""
    if isinstance(settings, AdamWSettings):
        return AdamW(
            model.parameters(),
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
    options: dict[str, Any] = {
        "betas": settings.betas,
        "eps": settings.eps,
        "clip_threshold": settings.clip_threshold,
        "weight_decay": settings.weight_decay,
        "bias_correction": settings.bias_correction,
        "stochastic_rounding": settings.stochastic_rounding,
        "backend": settings.backend,
        "seed": seed,
        "joined": query_key_value(model) if settings.join_qkv else (),
    }
    if not isinstance(settings, CAME8bitSettings):
        return CAME(model.parameters(), settings.lr, **options)
    return CAME8bit(
        model.parameters(),
        settings.lr,
        layout=settings.layout,
        block_size=settings.block_size,
        min_8bit_size=settings.min_8bit_size,
        **options,
    )


def query_key_value(model: nn.Module) -> list[list[Tensor]]:
    """The weights that NVlabs holds as one matrix: q, k, v of each self-attention, k and v of each cross-attention."""
    groups = []
    for name, module in model.named_modules():
        if hasattr(module, "to_k"):
            members = (
                (module.to_k, module.to_v) if name.endswith("cross_attn") else (module.to_q, module.to_k, module.to_v)
            )
            groups.append([member.weight for member in members])
    return groups


def make_objective(
    settings: RunSettings, model: SanaTransformer, encoder: CaptionEncoder | None, *, tokens: int
) -> FlowMatching:
    """Flow matching; where captions are dropped, the model's null caption stands in, else the encoder's of "".

    Raises:
        ValueError: captions are to be dropped and there is neither, or it does not fit the data.
    """
    objective = settings.objective
    if objective.caption_dropout > 0:
        if model.null_caption is None and encoder is not None:
            model.null_caption = encoder("", chi=False).embeddings[0].to(next(model.parameters()))
        if model.null_caption is None:
            raise ValueError(
                f"[objective] caption_dropout is {objective.caption_dropout} and [model] has no null caption: give "
                "[captions] checkpoint to encode one, or set caption_dropout = 0"
            )
        if len(model.null_caption) < tokens:
            raise ValueError(
                f"the null caption has {len(model.null_caption)} tokens and the captions of {settings.data.shards} "
                f"{tokens}: encode the captions with at most as many tokens"
            )
    null_caption = None if model.null_caption is None else model.null_caption[:tokens]
    return FlowMatching(
        shift=objective.shift,
        weighting=objective.weighting,
        caption_dropout=objective.caption_dropout,
        null_caption=null_caption,
    )


def check_data(data: LatentShards, config: SanaConfig, folder: str) -> None:
    """Raise ValueError where the shards are of another autoencoder or text encoder than the model's."""
    pairs = {
        "latent channels": (data.latent_channels, config.in_channels),
        "caption channels": (data.caption_shape[1], config.caption_channels),
    }
    for name, (found, wanted) in pairs.items():
        if found != wanted:
            raise ValueError(f"{folder} has {found} {name} and the model takes {wanted}: encode for this model")
    patch = config.patch_size
    if odd := [f"{h}x{w}" for h, w in data.sizes if h % patch or w % patch]:
        raise ValueError(f"{folder} has latents of {odd[0]} cells; the model's patches need multiples of {patch}")


def samples_per_pass(settings: RunSettings, processes: int) -> int:
    """Samples that one process takes at once.

    Raises:
        ValueError: the batch cannot be divided among the processes, or they cannot train as they are told to.
    """
    if settings.train.step_in_backward and processes > 1:
        raise ValueError(
            f"[train] step_in_backward is for one process and there are {processes}: their gradients are sharded "
            "already, so leave it out"
        )
    size, parts = settings.data.batch_size, processes * settings.train.accumulate
    if size % parts:
        raise ValueError(
            f"[data] batch_size {size} cannot be divided among {processes} processes with "
            f"{settings.train.accumulate} micro-batches each: make it a multiple of {parts}"
        )
    return size // parts


def _checkpoint_config(init: str) -> SanaConfig:
    folder = checkpoint_folder(init)
    path = Path(folder)
    if path.is_file():
        return SanaTransformer.from_pretrained(folder).config
    within = "transformer/" if read_json(folder, INDEX) else ""
    fields = read_json(folder, f"{within}config.json")
    if fields is None:
        raise FileNotFoundError(f"{init} has no {within}config.json: give the folder or Hub id of a Sana transformer")
    facts = read_json(folder, f"{within}sana.json") or {}
    return replace(from_diffusers_config(fields), compat=facts.get("compat", "diffusers"))


def _caption_encoder(settings: RunSettings, model: SanaTransformer) -> CaptionEncoder | None:
    """The encoder, on the CPU, if it is needed: it works once, before the training."""
    if settings.captions is None:
        return None
    needed = settings.samples is not None or (settings.objective.caption_dropout > 0 and model.null_caption is None)
    return CaptionEncoder.from_pretrained(checkpoint_folder(settings.captions.checkpoint)) if needed else None


def _validation(settings: RunSettings, config: SanaConfig, objective: FlowMatching) -> FlowValidation | None:
    if settings.validation is None:
        return None
    chosen = settings.validation
    captions = settings.data.captions()
    held_out = LatentShards(chosen.shards, batch_size=chosen.samples, seed=chosen.seed, captions=captions)
    check_data(held_out, config, chosen.shards)
    return FlowValidation(
        held_out(0), objective=objective, bins=chosen.bins, seed=chosen.seed, batch_size=chosen.batch_size
    )


def _samples(
    settings: RunSettings, model: SanaTransformer, encoder: CaptionEncoder | None, device: torch.device
) -> Callable[[nn.Module, Path], None] | None:
    if settings.samples is None:
        return None
    assert settings.autoencoder is not None
    assert encoder is not None
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    autoencoder = DCAE.from_pretrained(
        checkpoint_folder(settings.autoencoder.checkpoint), subfolder="vae", dtype=half, device=device
    )
    return TrainingSamples(
        settings.samples,
        autoencoder.eval(),
        encoder,
        null_caption=model.null_caption,
        shift=settings.objective.shift,
        precision=settings.train.precision,
    )


def checkpoint_folder(checkpoint: str) -> str:
    """The folder or Hub id of a checkpoint that may be called "embedded"."""
    return str(locate(checkpoint)[0])

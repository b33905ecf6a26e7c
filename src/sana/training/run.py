"""The objects of a training run, made from its settings: model, objective, optimizer, batches and their trainer."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sana.catalog import locate
from sana.devices import half_on_gpu
from sana.growing_runs import grown_optimizer, growth_facts
from sana.training.lora import check_same_factors, lora_facts, make_lora
from sana.training.model import make_model, model_config
from sana.training.optimizer import make_optimizer
from sana.training.samples import TrainingSamples
from sana.training.settings import POSITIONS, RunSettings
from sana.training.shard_stamps import proved_stamps, stamps
from sana_ae import DCAE
from sana_dit import CaptionEncoder, SanaConfig, SanaTransformer
from sana_train import FlowMatching, FlowValidation, LatentShards, Trainer
from sana_train.distributed import world_size
from sana_train.preparation import prepare_blocks


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
    samples_per_pass(settings, world_size())
    if resume:
        check_same_factors(settings.lora, Path(settings.train.run_dir))
    data = training_data(settings)
    check_data(data, model_config(settings.model), settings.data.shards)
    model = make_model(settings.model, seed=settings.train.seed, device=device)
    encoder = _caption_encoder(settings, model)
    objective = make_objective(settings, model, encoder, tokens=data.caption_shape[0])
    make = Trainer.start_or_resume if resume else Trainer
    options = {"allow_changes": allow_changes} if resume else {}
    trained: nn.Module = model
    if settings.lora is not None:
        trained = make_lora(model, settings.lora, seed=settings.train.seed)
        prepare_blocks(model.blocks, settings.train)
    known = stamps(data)
    if resume and not allow_changes:
        known = proved_stamps(data, Path(settings.train.run_dir), progress=settings.train.progress)
    return make(
        trained,
        objective,
        lambda prepared: grown_optimizer(
            make_optimizer(prepared, settings.optimizer, seed=settings.train.seed), prepared, settings.growth
        ),
        data,
        settings.train,
        validation=_validation(settings, model.config, objective),
        sample=_samples(settings, model, encoder, device),
        settings=fixed_settings(settings, data)
        | growth_facts(settings.growth)
        | lora_facts(settings.lora, model)
        | {"shard_stamps": known},
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


def _caption_encoder(settings: RunSettings, model: SanaTransformer) -> CaptionEncoder | None:
    """The encoder, on the CPU, if it is needed: it works once, before the training."""
    if settings.captions is None:
        return None
    needed = settings.samples is not None or (settings.objective.caption_dropout > 0 and model.null_caption is None)
    source, revision = locate(settings.captions.checkpoint)
    return CaptionEncoder.from_pretrained(source, revision=revision) if needed else None


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
    source, revision = locate(settings.autoencoder.checkpoint)
    dtype = half_on_gpu(device)
    autoencoder = DCAE.from_pretrained(source, subfolder="vae", revision=revision, dtype=dtype, device=device)
    return TrainingSamples(
        settings.samples,
        autoencoder.eval(),
        encoder,
        null_caption=model.null_caption,
        shift=settings.objective.shift,
        precision=settings.train.precision,
    )

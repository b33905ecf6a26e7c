"""What a training run will take, said before it starts: parameters, memory per GPU, FLOPs, schedule, data."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from sana.training.lora import make_lora
from sana.training.memory import StepShape, activation_bytes, forward_flops
from sana.training.model import DTYPES, model_config
from sana.training.run import check_data, samples_per_pass, training_data
from sana.training.settings import (
    AdamWSettings,
    CAME8bitSettings,
    CAMESettings,
    GrowthSettings,
    LoraSettings,
    OptimizerSettings,
    RunSettings,
)
from sana_dit import SanaConfig, SanaTransformer, TrainableLora
from sana_train import LatentShards, TrainConfig
from sana_train.came.memory import optimizer_state_bytes

CAPTION_TOKENS = 300  # where there is no data to ask
FP32 = 4
MOST_IN_BF16 = 128  # micro-batches: 256 alike add up to a sum that takes no more, and 1024 lose half of the gradient


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """A run in numbers.

    Attributes:
        parameters: of the transformer.
        memory: bytes per GPU, by what they are for; their sum is what a GPU must have.
        offloaded: bytes of the weight average that stay in CPU memory.
        flops_per_image: of one training step, divided by its samples: forward, backward and what is recomputed. With
            captions of full length: steps on shorter ones take up to a seventh less.
        lines: about model, batch, schedule and data, to be read by people.
        warnings: what will work and hardly be meant.
    """

    parameters: int
    memory: dict[str, int]
    offloaded: int
    flops_per_image: int
    lines: dict[str, str]
    warnings: tuple[str, ...]

    @property
    def memory_per_gpu(self) -> int:
        """Bytes that one GPU must have."""
        return sum(self.memory.values())


def plan_training(settings: RunSettings, *, processes: int = 1) -> TrainingPlan:
    """The plan of a run on so many processes, one GPU each; reads no weights and writes nothing.

    Raises:
        FileNotFoundError: the configuration of the model's checkpoint is not there.
        ValueError: model and data do not go together, or the batch cannot be divided among the processes.
    """
    train, config = settings.train, model_config(settings.model)
    data, missing = _data(settings, config)
    samples = samples_per_pass(settings, processes)
    height, width = max(data.sizes, key=lambda size: size[0] * size[1]) if data else (config.sample_size,) * 2
    shape = StepShape(
        samples=samples, height=height, width=width, tokens=data.caption_shape[0] if data else CAPTION_TOKENS
    )
    with torch.device("meta"):
        model = SanaTransformer(config).to(DTYPES[settings.model.weights])
        parameters = _count(model)
        lora = make_lora(model, settings.lora, seed=train.seed) if settings.lora else None
    shards = train.shard_over or processes
    average = 0 if train.ema_decay is None else FP32 * _count(lora or model) // shards
    memory = _memory(settings, model, lora, shape, processes=shards)
    # A backward pass costs two forward ones, and one where weights need no gradients.
    passes = (2 if lora else 3) + train.activation_checkpointing
    return TrainingPlan(
        parameters=parameters,
        memory=memory if train.ema_offload else memory | {"weight average": average},
        offloaded=average if train.ema_offload else 0,
        flops_per_image=passes * forward_flops(config, shape),
        lines={
            "model": _model_line(settings, config),
            "step": f"{settings.data.batch_size} samples = {processes} x {train.accumulate} x {samples} "
            "(processes x micro-batches x samples)",
            "latents": f"{height}x{width} cells, at most {shape.tokens} caption tokens"
            + (f" (assumed: {missing})" if missing else ""),
            "optimizer": _optimizer_line(settings),
            "learning rate": describe_schedule(train, settings.optimizer.lr),
            "data": _data_line(settings, data) if data else str(missing),
            "run": _run_line(train),
        }
        | ({"growth": _growth_line(settings.growth)} if settings.growth else {})
        | ({"lora": _lora_line(settings.lora, lora)} if settings.lora and lora else {}),
        warnings=tuple(_warnings(settings)),
    )


def describe_schedule(train: TrainConfig, lr: float) -> str:
    """The learning rate over the steps, in words."""
    parts = []
    if train.warmup_steps:
        parts.append(f"rises to {lr:g} over steps 1-{train.warmup_steps:,}")
    flat = train.steps - train.warmup_steps - train.decay_steps
    if flat:
        parts.append(f"stays at {lr:g} for {flat:,} steps")
    if train.decay_steps:
        first = train.steps - train.decay_steps + 1
        parts.append(f"falls to {lr * train.final_lr_factor:g} over steps {first:,}-{train.steps:,}")
    return ", ".join(parts)


def _memory(
    settings: RunSettings, model: SanaTransformer, lora: TrainableLora | None, shape: StepShape, *, processes: int
) -> dict[str, int]:
    train, dtype = settings.train, DTYPES[settings.model.weights]
    weights = sum(weight.nbytes for weight in (lora or model).parameters())
    frozen = sum(weight.nbytes for weight in model.parameters() if not weight.requires_grad)
    memory = {
        "weights": frozen + weights // processes,
        "gradients": 0 if train.step_in_backward else weights // processes,
        "optimizer state": optimizer_bytes(lora or model, settings.optimizer) // processes,
        "activations, at most": activation_bytes(model.config, shape, train=train, dtype=dtype, lora=settings.lora),
    }
    if processes > 1 and lora:
        memory["adapter gathered from the other GPUs"] = weights
    elif processes > 1:  # this block and the next one whole, and the gradients of one
        memory["blocks gathered from the other GPUs"] = 3 * _count(model.blocks[0]) * dtype.itemsize
    return memory


def optimizer_bytes(model: nn.Module, settings: OptimizerSettings) -> int:
    """Bytes of the optimizer's state for `model`, which may be on the meta device."""
    shapes = (parameter.shape for parameter in model.parameters())
    match settings:
        case AdamWSettings():
            return optimizer_state_bytes(shapes, "adamw")
        case CAME8bitSettings(layout=layout, block_size=block_size, min_8bit_size=least):
            return optimizer_state_bytes(shapes, "came8bit", layout=layout, block_size=block_size, min_8bit_size=least)
    return optimizer_state_bytes(shapes, "came")


def _data(settings: RunSettings, config: SanaConfig) -> tuple[LatentShards | None, str | None]:
    """The data, or why there is none yet: a plan is made before it is encoded, too."""
    folder = settings.data.shards
    if not Path(folder).is_dir():
        return None, f"{folder} is not there yet"
    data = training_data(settings)
    check_data(data, config, folder)
    return data, None


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _model_line(settings: RunSettings, config: SanaConfig) -> str:
    origin = f"from {settings.model.init}" if settings.model.init else "from random weights"
    return f"{config.num_layers} blocks x {config.width} {origin}, in {settings.model.weights}"


def _optimizer_line(settings: RunSettings) -> str:
    clip = "off" if settings.train.grad_clip is None else f"at {settings.train.grad_clip:g}"
    kind = type(settings.optimizer).__name__.removesuffix("Settings")
    where = ", stepping inside the backward pass" if settings.train.step_in_backward else ""
    return f"{kind}, betas {settings.optimizer.betas}, gradient clipping {clip}{where}"


def _data_line(settings: RunSettings, data: LatentShards) -> str:
    epochs = settings.train.steps / data.steps_per_epoch
    return (
        f"{data.samples:,} samples (shards: {len(data.headers):,}, sizes: {len(data.sizes)}); "
        f"{data.steps_per_epoch:,} steps an epoch, {epochs:,.1f} epochs"
    )


def _growth_line(growth: GrowthSettings) -> str:
    alone = f", alone for {growth.frozen_steps:,}" if growth.frozen_steps else ""
    return f"new blocks of {growth.plan} warmed up over {growth.warmup_steps:,} steps{alone}"


def _lora_line(settings: LoraSettings, lora: TrainableLora) -> str:
    alpha = settings.rank if settings.alpha is None else settings.alpha
    size = f"{_count(lora):,} parameters in {len(lora.factors)} layers"
    return f"rank {settings.rank}, alpha {alpha:g}: {size}, beside frozen weights"


def _run_line(train: TrainConfig) -> str:
    every = {"checkpoint": train.checkpoint_every, "validation": train.validate_every, "samples": train.sample_every}
    parts = [f"{name} every {steps:,}" for name, steps in every.items() if steps]
    return f"{train.steps:,} steps into {train.run_dir}; " + ", ".join(parts)


def _warnings(settings: RunSettings) -> list[str]:
    found, optimizer = [], settings.optimizer
    if isinstance(optimizer, CAMESettings) and not optimizer.bias_correction and settings.train.warmup_steps == 0:
        found.append(
            "CAME's first step moves weights by 11 times the learning rate: set [train] warmup_steps to some hundreds, "
            "or [optimizer] bias_correction = true"
        )
    bf16 = settings.model.weights == "bf16" and settings.lora is None  # what is trained: factors are in fp32
    if bf16 and settings.train.accumulate > MOST_IN_BF16:
        found.append(
            f"bf16 weights with accumulate {settings.train.accumulate}: gradients add up in bf16, which loses what is "
            f'below 1/256 of the sum; set [train] accumulate to at most {MOST_IN_BF16}, or [model] weights = "fp32"'
        )
    rounds = isinstance(optimizer, AdamWSettings) or not optimizer.stochastic_rounding
    if bf16 and rounds:
        found.append(
            "bf16 weights take no update below 1/256 of their own size unless it is rounded stochastically: set "
            '[optimizer] stochastic_rounding = true (came, came8bit), or [model] weights = "fp32"'
        )
    return found

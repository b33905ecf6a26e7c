"""The sections of a training run as dataclasses, and what they must not say together."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from sana.choices import Kernels
from sana_dit import LORA_TARGETS, SanaConfig
from sana_train import CaptionSampler, TrainConfig

POSITIONS = ("sample_size", "interpolation_scale")  # of a SanaConfig: where latent cells are, and in which range


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """[model]: the transformer to train.

    Attributes:
        init: folder, file or Hub id of a transformer or pipeline to go on from, or "embedded"; None starts from
            random weights.
        config: shape of a transformer that starts from random weights. In the file: `preset`, such as "SANA_0_6B",
            and fields of `SanaConfig`, which replace those of the preset.
        weights: dtype of the weights, and of gradients. "bf16" halves both; give the optimizer stochastic_rounding.
        positions: the `sample_size` and `interpolation_scale` that replace those of `init`, to go on at another
            resolution. No weight depends on them.
        kernels: "fused" trains with Triton kernels wherever they can run; see `sana_dit.ops.use`.
    """

    init: str | None = None
    config: SanaConfig | None = None
    weights: Literal["fp32", "bf16"] = "fp32"
    positions: dict[str, Any] = field(default_factory=dict)
    kernels: Kernels = "reference"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWSettings:
    """[optimizer] with kind = "adamw"."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class CAMESettings:
    """[optimizer] with kind = "came"; see `sana_train.CAME`.

    Attributes:
        join_qkv: update q, k and v of an attention as one matrix, as NVlabs trains it: they share column statistics.
    """

    lr: float
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999)
    eps: tuple[float, float] = (1e-30, 1e-16)
    clip_threshold: float = 1.0
    weight_decay: float = 0.0
    bias_correction: bool = False
    stochastic_rounding: bool = False
    backend: Literal["eager", "compile", "triton"] = "eager"
    join_qkv: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CAME8bitSettings(CAMESettings):
    """[optimizer] with kind = "came8bit"; see `sana_train.CAME8bit`."""

    layout: Literal["row", "flat", "dynamic"] = "row"
    block_size: int = 2048
    min_8bit_size: int = 16384


OptimizerSettings = AdamWSettings | CAMESettings
OPTIMIZERS: dict[str, type[AdamWSettings] | type[CAMESettings]] = {
    "came8bit": CAME8bitSettings,
    "came": CAMESettings,
    "adamw": AdamWSettings,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveSettings:
    """[objective]; see `sana_train.FlowMatching`.

    The caption that stands for a dropped one comes with the checkpoint of [model] init, else from [captions].
    """

    shift: float = 3.0
    weighting: Literal["logit_normal", "uniform"] = "logit_normal"
    caption_dropout: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSettings:
    """[data]: folder of shards, samples of a step over all processes, the seed of their order, and which captions.

    Attributes:
        caption_tau: temperature at which one of an image's captions is drawn by its score; None draws all alike.
        caption_threshold: score below which a caption is only taken where the image has no better one.
        caption_mode: see `sana_train.CaptionSampler`.
    """

    shards: str
    batch_size: int
    seed: int = 0
    caption_tau: float | None = 0.1
    caption_threshold: float | None = None
    caption_mode: Literal["softmax", "power"] = "softmax"

    def __post_init__(self) -> None:
        _check_positive(self, "batch_size")
        self.captions()

    def captions(self) -> CaptionSampler:
        """What draws one of an image's captions."""
        tau = math.inf if self.caption_tau is None else self.caption_tau
        return CaptionSampler(tau=tau, threshold=self.caption_threshold, mode=self.caption_mode)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationSettings:
    """[validation]: folder of held-out shards, how many samples of it, and bins of the noise level."""

    shards: str
    samples: int = 64
    bins: int = 5
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        _check_positive(self, "samples", "bins", "batch_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSettings:
    """[captions] and [autoencoder]: folder or Hub id of a pipeline, or "embedded"."""

    checkpoint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSettings:
    """[samples]: prompts drawn with the model during training; picture k uses seed `seed + k`."""

    prompts: tuple[str, ...]
    steps: int = 20
    guidance_scale: float = 4.5
    seed: int = 0

    def __post_init__(self) -> None:
        _check_positive(self, "steps")
        if not self.prompts:
            raise ValueError("prompts is empty; give some, or leave the section out")


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthSettings:
    """[growth]: how the new blocks of a model that `sana grow` made begin; see `sana_train.growth.grow_optimizer`.

    Attributes:
        plan: the growth.json of the grown model or run.
        warmup_steps: over which the learning rate of the new blocks rises, on top of the schedule of [train].
        frozen_steps: in which the new blocks are trained alone.
    """

    plan: str
    warmup_steps: int
    frozen_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "frozen_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """[lora]: train an adapter beside the frozen weights of [model] init; see `sana_dit.add_lora`."""

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = LORA_TARGETS


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """One run: each field is a section of its file."""

    train: TrainConfig
    model: ModelSettings
    optimizer: OptimizerSettings
    objective: ObjectiveSettings
    data: DataSettings
    validation: ValidationSettings | None = None
    captions: CheckpointSettings | None = None
    autoencoder: CheckpointSettings | None = None
    samples: SampleSettings | None = None
    growth: GrowthSettings | None = None
    lora: LoraSettings | None = None

    def __post_init__(self) -> None:
        """Refuse what one section says and another denies."""
        for section, key in (("validation", "validate_every"), ("samples", "sample_every")):
            every = getattr(self.train, key)
            if (getattr(self, section) is not None) != (every > 0):
                given = f"[{section}] is given" if every == 0 else f"[{section}] is missing"
                raise ValueError(f"{given} and [train] {key} is {every}: give both, or neither")
        if self.samples and not (self.captions and self.autoencoder):
            raise ValueError("[samples] needs [captions] and [autoencoder]: give the checkpoint of each")
        if self.autoencoder and not self.samples:
            raise ValueError("[autoencoder] is only used to draw [samples]: add them, or leave it out")
        if self.train.step_in_backward and isinstance(self.optimizer, CAMESettings) and self.optimizer.join_qkv:
            raise ValueError(
                "[train] step_in_backward and [optimizer] join_qkv are both true: q, k and v are updated together or "
                "each with its own gradient; leave one out"
            )
        rounding = isinstance(self.optimizer, CAMESettings) and self.optimizer.stochastic_rounding
        if rounding and self.model.weights == "fp32":
            raise ValueError(
                '[optimizer] stochastic_rounding is true and [model] weights "fp32": it is for weights = "bf16"'
            )
        if self.lora:
            self._check_lora()

    def _check_lora(self) -> None:
        if self.model.init is None:
            raise ValueError("[lora] needs [model] init: an adapter belongs to the weights that it was trained beside")
        if self.growth:
            raise ValueError("[lora] and [growth] are both given: new blocks need training themselves; leave one out")
        if isinstance(self.optimizer, CAMESettings) and self.optimizer.join_qkv:
            raise ValueError("[lora] and [optimizer] join_qkv: q, k and v have factors of their own; leave it out")
        if isinstance(self.optimizer, CAMESettings) and self.optimizer.stochastic_rounding:
            raise ValueError("[lora] and [optimizer] stochastic_rounding: factors are in fp32; leave it out")


def _check_positive(settings: object, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} is {getattr(settings, name)}; it must be at least 1")

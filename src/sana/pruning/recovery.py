"""Recovery of a pruned transformer: it learns from the unpruned one, on pictures of that one or on data."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from sana.pipeline import SanaPipeline
from sana.pruning.calibration import Sample
from sana.training.optimizer import make_optimizer
from sana.training.run import check_data, fixed_settings, make_objective, training_data
from sana.training.run_file import read_run_file
from sana.training.settings import RunSettings
from sana.training.settings_reading import settings_of
from sana_dit import Captions, SanaTransformer
from sana_scale import PrunePlan
from sana_scale.depth import Distillation, calibration_hash
from sana_train import Batches, CheckpointError, FlowMatching, TrainConfig, Trainer

BATCH_SIZE = 16
LEARNING_RATE = 1e-4
CAPTION_DROPOUT = 0.1

Recover = Callable[[SanaTransformer, SanaTransformer, PrunePlan], SanaTransformer]
"""`(pruned, unpruned, plan) -> recovered`, another transformer, in fp32."""


class DrawnSamples:
    """Batches of pictures that a pipeline drew, as a pure function of the step; some captions are left empty."""

    def __init__(
        self, samples: Sequence[Sample], nothing: Captions | None, *, batch_size: int = BATCH_SIZE, seed: int = 0
    ) -> None:
        self._samples = samples
        self._nothing = nothing
        self._batch_size = min(batch_size, len(samples))
        self._seed = seed

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of one step."""
        draw = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        picked = torch.randperm(len(self._samples), generator=draw)[: self._batch_size].tolist()
        dropped = (torch.rand(len(picked), generator=draw) < CAPTION_DROPOUT).tolist()
        captions = [self._caption(*pair) for pair in zip(picked, dropped, strict=True)]
        return {
            "latents": torch.cat([self._samples[index].latents for index in picked]),
            "caption": torch.cat([caption.embeddings for caption in captions]).float(),
            "caption_mask": torch.cat([caption.mask for caption in captions]),
            "key": [self._samples[index].prompt for index in picked],
        }

    def _caption(self, index: int, dropped: bool) -> Captions:
        return self._nothing if dropped and self._nothing is not None else self._samples[index].captions


def empty_caption(pipeline: SanaPipeline) -> Captions:
    """What stands for no caption in guidance: of the model, or of its caption encoder."""
    null: Tensor | None = pipeline.transformer.null_caption
    if null is None:
        _, negative = pipeline.encode([""], guidance_scale=2.0)
        assert negative is not None
        return negative
    return Captions(null[None], torch.ones(1, len(null), dtype=torch.bool, device=null.device))


def recover_on_batches(
    batches: Batches,
    run_dir: Path,
    *,
    shift: float,
    steps: int = 100,
    lr: float = LEARNING_RATE,
    flow_weight: float = 1.0,
    seed: int = 0,
    data: object = None,
    progress: bool = True,
) -> Recover:
    """A recovery on any batches; it goes on if `run_dir` has begun with the same model, blocks and `data`.

    `data` is what the batches are made of, in what JSON holds.

    The learning rate rises over a tenth of the steps and falls to a tenth of itself over the last half.
    `flow_weight` is that of flow matching on the batches' latents, beside what the unpruned model says of them. For
    `DrawnSamples` it should be 0: pictures drawn under guidance are not what the model was trained on.
    """

    def recover(pruned: SanaTransformer, unpruned: SanaTransformer, plan: PrunePlan) -> SanaTransformer:
        student = copy.deepcopy(pruned).float()
        config = TrainConfig(
            run_dir=str(run_dir),
            steps=steps,
            seed=seed,
            warmup_steps=steps // 10,
            decay_steps=steps // 2,
            final_lr_factor=0.1,
            ema_decay=None,
            precision="bf16" if next(student.parameters()).is_cuda else "fp32",
            checkpoint_every=steps,
            keep_checkpoints=1,
            progress=progress,
        )
        optimizer = AdamW(student.parameters(), lr=lr, weight_decay=0.0)
        distillation = Distillation(FlowMatching(shift=shift), _teacher(unpruned), plan, task=flow_weight)
        return _trained(student, distillation, optimizer, batches, config, settings=_fixed(plan, data))

    return recover


def recovery_settings(recipe: Path, model: str, run_dir: Path) -> RunSettings:
    """The settings of a run file of `sana train`, whose [model] is `model` in fp32 whatever it says.

    Raises:
        ValueError: the file asks for what only training from its own checkpoint can do.
    """
    sections = read_run_file(recipe)
    sections["model"] = {"init": model}
    sections.setdefault("train", {})["run_dir"] = str(run_dir)
    settings = settings_of(sections, where=str(recipe))
    if settings.validation or settings.samples:
        raise ValueError(f"{recipe} has [validation] or [samples]: recovery is scored by the report, leave them out")
    if settings.lora:
        raise ValueError(f"{recipe} has [lora]: recovery trains the weights that are left, leave it out")
    return settings


def recover_on_data(settings: RunSettings, pipeline: SanaPipeline) -> Recover:
    """A recovery as a run file says, with distillation beside its objective."""

    def recover(pruned: SanaTransformer, unpruned: SanaTransformer, plan: PrunePlan) -> SanaTransformer:
        student = copy.deepcopy(pruned).float()
        data = training_data(settings)
        check_data(data, student.config, settings.data.shards)
        objective = make_objective(settings, student, pipeline.caption_encoder, tokens=data.caption_shape[0])
        optimizer = make_optimizer(student, settings.optimizer, seed=settings.train.seed)
        distillation = Distillation(objective, _teacher(unpruned), plan)
        fixed = _fixed(plan, fixed_settings(settings, data))
        return _trained(student, distillation, optimizer, data, settings.train, settings=fixed)

    return recover


def _fixed(plan: PrunePlan, data: object) -> dict[str, Any]:
    """What a recovery that goes on must have in common with the one that began, apart from its configuration."""
    hashes = {"unpruned": plan.model, "pruned": plan.pruned, "data": calibration_hash(data)}
    return {"blocks": list(plan.kept)} | {name: value[:16] for name, value in hashes.items()}


def _teacher(unpruned: SanaTransformer) -> SanaTransformer:
    return copy.deepcopy(unpruned).float()


def _trained(
    student: SanaTransformer,
    distillation: Distillation,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    config: TrainConfig,
    *,
    settings: Mapping[str, Any],
) -> SanaTransformer:
    try:
        trainer = Trainer.start_or_resume(student, distillation, optimizer, batches, config, settings=settings)
    except CheckpointError as error:
        remedy = f"remove {config.run_dir} to recover from the beginning"
        raise ValueError(str(error).replace("pass allow_changes=True", remedy)) from error
    if not trainer.fit():
        raise InterruptedError(f"recovery was stopped: repeat the call to resume from {config.run_dir}")
    device = next(student.parameters()).device
    return SanaTransformer.from_pretrained(Path(config.run_dir) / "model", device=device).eval()

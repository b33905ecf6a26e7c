"""What is called with the averaged model while it is trained: a validation, and samples to look at."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from sana_train.config import TrainConfig
from sana_train.ema import EMA
from sana_train.train_step import autocast
from sana_train.validation import evaluating

Validate = Callable[[nn.Module], dict[str, float]]
Sample = Callable[[nn.Module, Path], None]


class Evaluation:
    """Calls `validate` and `sample` at their steps, with the averages in the model's place.

    Raises:
        ValueError: one of `validate` and `validate_every`, or of `sample` and `sample_every`, is given without the
            other.
    """

    def __init__(
        self,
        model: nn.Module,
        ema: EMA | None,
        config: TrainConfig,
        *,
        validate: Validate | None,
        sample: Sample | None,
    ) -> None:
        _check_given("validation", validate, "validate_every", config.validate_every)
        _check_given("sample", sample, "sample_every", config.sample_every)
        self._model = model
        self._ema = ema
        self._config = config
        self._validate = validate
        self._sample = sample

    def validated(self, step: int) -> dict[str, float] | None:
        """The numbers of the validation after this step, None where it is not due."""
        if self._validate is None or not is_due(step, self._config.validate_every, self._config):
            return None
        with self._averaged():
            return self._validate(self._model)

    def draw_samples(self, step: int) -> None:
        """Draw samples after this step where they are due."""
        if self._sample is not None and is_due(step, self._config.sample_every, self._config):
            with self._averaged():
                self._sample(self._model, Path(self._config.run_dir) / "samples" / f"step-{step:08d}")

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged model in eval mode, without gradients, in the precision of training."""
        with ExitStack() as stack:
            stack.callback(self._reshard)
            stack.enter_context(torch.no_grad())
            stack.enter_context(autocast(next(self._model.parameters()).device, self._config))
            if self._ema:
                stack.enter_context(self._ema.applied())
            stack.enter_context(evaluating(self._model))
            yield

    def _reshard(self) -> None:
        """Let go of gathered weights: FSDP2's root keeps those of its last forward for the next, averaged or not."""
        if isinstance(self._model, FSDPModule):
            self._model.reshard()


def is_due(step: int, every: int, config: TrainConfig) -> bool:
    """Whether what happens every so many steps, 0 for never, and at the end, happens after this one."""
    return every > 0 and (step % every == 0 or step == config.steps)


def _check_given(name: str, hook: object, every_name: str, every: int) -> None:
    if (hook is not None) != (every > 0):
        given = "is given" if hook is not None else "is missing"
        raise ValueError(f"{name} {given} and {every_name} is {every}: they go together, so give both or neither")

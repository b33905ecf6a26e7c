"""The one training loop, for one process or many: a step, what is due after it, and a way back when steps fail."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from sana_train.checkpointing.checkpoint import CheckpointError, Checkpoints, Saved
from sana_train.checkpointing.model_folder import ModelFolder
from sana_train.checkpointing.optimizer_state import check_covered, jumps_at_first
from sana_train.checkpointing.run_state import RunState
from sana_train.config import TrainConfig
from sana_train.distributed import gathered, rank, world_size
from sana_train.ema import EMA
from sana_train.evaluation import Evaluation, Sample, Validate, is_due
from sana_train.guards import SpikeGuard
from sana_train.metrics import MetricsLog
from sana_train.objective import Batches, Objective
from sana_train.plots import plot_run
from sana_train.preparation import prepare
from sana_train.progress import Progress
from sana_train.run_lock import run_lock
from sana_train.stop_request import StopRequest, stop_on_sigterm
from sana_train.train_step import StepResult, TrainStep
from sana_train.upcoming import Share, share_at, upcoming

logger = logging.getLogger(__name__)

MAX_RETURNS = 2  # to one checkpoint, before a run is given up

MakeOptimizer = Callable[[nn.Module], Optimizer]


class Trainer:
    """Trains `model` on `batches` and keeps the run in `config.run_dir`.

    The run can be killed at any instant: `Trainer.resume` goes on from the newest checkpoint and ends in the same
    weights, optimizer state and log as a run that was never stopped, bit for bit with as many processes on the same
    kind of machine. With another number of processes the state is read bit for bit too, but sums round differently, and
    dropout layers, which draw in each process, drop other values.

    The folder `run_dir/model` holds the averaged weights, written by the model's own `save_pretrained(dir)` where it
    has one, else as `model.safetensors`.

    Args:
        model: the model, with the same weights in every process (those of the first one are used, and its buffers
            after each step, such as batch-norm statistics); once sharded, no other Trainer can take it. `fit` calls
            its `train()`: a model with a part that stays in eval mode, such as a frozen batch norm, says so there.
        objective: the loss of a batch.
        optimizer: an optimizer of the model's parameters, or a function that makes one from the prepared model: needed
            where several processes train together, since sharding replaces the parameters.
        batches: the batch of each step; see `Batches` and `DividedBatches`.
        config: everything else.
        validation: called with the averaged model every `validate_every` steps; its numbers are logged.
        sample: called with the averaged model and a folder every `sample_every` steps, in every process.
        settings: what else must not change when the run is resumed, such as the objective's and the data's; JSON.

    Raises:
        ValueError: the optimizer does not fit the model, the model is sharded already, the options do not fit several
            processes, or one of `validation` and `validate_every`, or of `sample` and `sample_every`, is given without
            the other.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer | MakeOptimizer,
        batches: Batches,
        config: TrainConfig,
        *,
        validation: Validate | None = None,
        sample: Sample | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(model, FSDPModule):
            raise ValueError(
                "the model is sharded already, as another Trainer or fully_shard leaves it: make a new model for each "
                "Trainer, which shards it"
            )
        if world_size() > 1 and (isinstance(optimizer, Optimizer) or config.step_in_backward):
            what = "step_in_backward" if config.step_in_backward else "a ready optimizer"
            raise ValueError(
                f"{what} with {world_size()} processes: the model is sharded, so give a function "
                "`lambda model: CAME8bit(model.parameters(), lr=...)` and leave step_in_backward out"
            )
        self._folder = ModelFolder(model)
        prepare(model, config)
        self.model = model
        self.batches = batches
        self.config = config
        self.step = 0
        self.optimizer = optimizer if isinstance(optimizer, Optimizer) else optimizer(model)
        check_covered(model, self.optimizer)
        self.ema = None if config.ema_decay is None else EMA(model, config.ema_decay, offload=config.ema_offload)
        self._evaluation = Evaluation(model, self.ema, config, validate=validation, sample=sample)
        self.guard = SpikeGuard(sigmas=config.spike_sigmas)
        self.run_dir = Path(config.run_dir)
        self._state = RunState(model, self.optimizer, self.ema, self.guard, config=config, settings=settings or {})
        self._take_step = TrainStep(model, objective, self.optimizer, self.ema, self.guard, config=config)
        self._checkpoints = Checkpoints(
            self.run_dir / "checkpoints", keep=config.keep_checkpoints, background=config.background_checkpoints
        )
        self._log = MetricsLog(self.run_dir, tensorboard=config.tensorboard and rank() == 0)
        self._saved_step: int | None = None  # of the checkpoint in run_dir that this run wrote or read last
        self._allow_changes = False
        self._stopped = False
        self._skipped: dict[int, list[str]] = {}  # steps skipped in a row, and the keys of their samples
        self._returns: Counter[int] = Counter()  # to the checkpoint of a step

    @classmethod
    def resume(
        cls,
        run_dir: str | Path,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer | MakeOptimizer,
        batches: Batches,
        config: TrainConfig,
        *,
        validation: Validate | None = None,
        sample: Sample | None = None,
        settings: Mapping[str, Any] | None = None,
        allow_changes: bool = False,
    ) -> Self:
        """A trainer that goes on where the newest good checkpoint of `run_dir` stopped.

        The run keeps its configuration and optimizer settings unless `allow_changes` is given; a longer `steps` is
        such a change.

        Raises:
            CheckpointError: there is no good checkpoint, or it is of other settings or another model.
        """
        trainer = cls.start_or_resume(
            model,
            objective,
            optimizer,
            batches,
            dataclasses.replace(config, run_dir=str(run_dir)),
            validation=validation,
            sample=sample,
            settings=settings,
            allow_changes=allow_changes,
        )
        if trainer._saved_step is None:
            raise CheckpointError(f"{run_dir} holds no checkpoint: start the run with Trainer(...).fit()")
        return trainer

    @classmethod
    def start_or_resume(
        cls,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer | MakeOptimizer,
        batches: Batches,
        config: TrainConfig,
        *,
        validation: Validate | None = None,
        sample: Sample | None = None,
        settings: Mapping[str, Any] | None = None,
        allow_changes: bool = False,
    ) -> Self:
        """Resume the run of `config.run_dir` where it has a checkpoint, else start it: what a command does."""
        trainer = cls(
            model, objective, optimizer, batches, config, validation=validation, sample=sample, settings=settings
        )
        trainer._allow_changes = allow_changes
        saved = trainer._checkpoints.newest()
        if saved is not None:
            trainer._go_on_from(saved)
        return trainer

    def fit(self) -> bool:
        """Train to the last step; `run_dir/model` then holds the result.

        Where another process has trained the run further since it was resumed, it goes on from that process's newest
        checkpoint.

        Returns whether the last step is reached: a SIGTERM to any process saves a checkpoint and stops earlier.

        Raises:
            CheckpointError: a new run would write over the one that `run_dir` holds.
            RunInUseError: another process trains in `run_dir`.
            FloatingPointError: steps keep failing after a return to the last good checkpoint.
        """
        with ExitStack() as stack:
            stack.enter_context(run_lock(self.run_dir))
            stop = stack.enter_context(stop_on_sigterm())
            self._begin()
            shown = self.config.progress and rank() == 0
            progress = stack.enter_context(Progress(self.config, self.step, shown=shown))
            self.model.train()
            while self.step < self.config.steps and not self._stopped:
                self._train(progress, stop)
            self._checkpoints.wait()
            self._log.close()
        return self.step == self.config.steps

    def train_step(self) -> StepResult:
        """Take the step at `self.step` on its batch; nothing is logged or saved."""
        share = share_at(self.batches, self.step, self.config, process=rank(), processes=world_size())
        result = self._take_step(share)
        self.step += 1
        return result

    def save(self) -> None:
        """Write a checkpoint and the averaged model; every process calls it.

        Raises:
            CheckpointError: it would replace a run that `run_dir` holds, or what another process has saved of this one
                since it was resumed; or it could not be written.
        """
        self._check_newest()
        self._checkpoints.save(self.step, self._state.tensors(), self._state.facts())
        self._saved_step = self.step
        self._write_model()

    def _check_newest(self) -> None:
        newer = self._checkpoints.newer_than(self._saved_step)
        if newer is not None and self._saved_step is None:
            raise CheckpointError(f"{self.run_dir} holds a run: go on with Trainer.resume, or give another run_dir")
        if newer is not None:
            raise CheckpointError(
                f"another process has trained {self.run_dir} to step {newer.step} since it was read at step "
                f"{self._saved_step}: go on with Trainer.resume"
            )

    def _begin(self) -> None:
        if self._saved_step is None:
            self._check_newest()
        else:
            self._catch_up()
            self._write_model()  # a kill may have come between the checkpoint and its model
        if self.step == 0 and jumps_at_first(self.optimizer) and self.config.warmup_steps == 0:
            logger.warning(
                "CAME's first step moves weights by 11 times the learning rate, and warmup_steps is 0: warm up over "
                "some hundred steps, or use bias_correction=True"
            )
        self._stopped = False
        if rank() == 0:
            self._log.forget_after(self.step)

    def _catch_up(self) -> None:
        """Before the lock was taken another process may have gone on, whose work must not be trained over."""
        newer = self._checkpoints.newer_than(self._saved_step)
        if newer is not None:
            logger.warning("another process has trained %s to step %d: going on there", self.run_dir, newer.step)
            self._go_on_from(newer)

    def _train(self, progress: Progress, stop: StopRequest) -> None:
        """Train until the last step, a request to stop, or a return to the last good checkpoint."""
        left = [step for step in range(self.step, self.config.steps) if step not in self._state.passed_over]
        for share in upcoming(self.batches, left, self.config):
            result = self._take_step(share, stop)
            self.step = share.step + 1
            progress.advance(self.step, len(share.slots) * world_size())
            self._note(share, result, progress)
            if len(self._skipped) == self.config.max_skips:
                self._return_to_checkpoint(str(result.skipped))
                progress.move_to(self.step)
                return
            self._stopped = result.stop
            with progress.paused():
                self._do_what_is_due()
            if self._stopped:
                return
        if self.step < self.config.steps:  # the last steps were passed over
            self.step = self.config.steps
            self._do_what_is_due()

    def _note(self, share: Share, result: StepResult, progress: Progress) -> None:
        """Log the step where one is due or it was skipped."""
        line: dict[str, object] = {
            "step": self.step,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "lr": result.lr,
        }
        if result.skipped:
            keys = gathered(share.keys)
            self._skipped[share.step] = keys
            self._append(line | {"skipped": result.skipped, "keys": keys})
            return
        self._skipped.clear()
        if self.step % self.config.log_every == 0 or self.step == self.config.steps:
            self._append(line | progress.rates())
            progress.show(result.loss)

    def _do_what_is_due(self) -> None:
        """Validate, sample and save at their steps; at the end and at a stop, save."""
        numbers = self._evaluation.validated(self.step)
        if numbers is not None:
            self._append({"step": self.step, **numbers})
        self._evaluation.draw_samples(self.step)
        # While steps fail nothing is saved, not even at a stop: a return has to lead to before they did.
        due = self._stopped or is_due(self.step, self.config.checkpoint_every, self.config)
        if (due and not self._skipped) or self.step == self.config.steps:
            self.save()
            if self.config.plots and rank() == 0 and find_spec("matplotlib"):
                plot_run(self.run_dir)

    def _return_to_checkpoint(self, reason: str) -> None:
        """Go back, and leave out the steps that failed."""
        failed, first = self.step, next(iter(self._skipped))
        self._checkpoints.wait()
        saved = self._checkpoints.newest()
        returns = 0 if saved is None else self._returns[saved.step]
        if saved is None or returns == MAX_RETURNS:
            raise FloatingPointError(
                f"steps {first} to {failed - 1} failed, the last because {reason}, "
                + (f"after {returns} returns to step {saved.step}" if saved else "and there is no checkpoint yet")
                + f"; samples {next(iter(self._skipped.values()))[:8]}: look at them, or lower the learning rate"
            )
        logger.warning("steps %d to %d failed (%s): back to step %d", first, failed - 1, reason, saved.step)
        self._returns[saved.step] += 1
        self._restore(saved)
        self._state.passed_over |= self._skipped.keys()
        if rank() == 0:
            self._log.forget_after(self.step)
        passed_over = {str(step): keys for step, keys in self._skipped.items()}
        self._append({"step": failed, "returned_to": self.step, "reason": reason, "passed_over": passed_over})
        self._skipped.clear()

    def _go_on_from(self, saved: Saved) -> None:
        changes = self._state.changes(saved.facts)
        if changes and not self._allow_changes:
            raise CheckpointError(
                f"{self.run_dir} was started otherwise ({', '.join(changes)}): use the same settings, "
                "or pass allow_changes=True"
            )
        if (saved.facts["config"]["ema_decay"] is None) != (self.ema is None):
            raise CheckpointError(
                f"{self.run_dir} cannot gain or lose its weight average: keep ema_decay, or start anew"
            )
        if saved.step > self.config.steps:
            raise CheckpointError(
                f"{self.run_dir} is at step {saved.step} and steps is {self.config.steps}: give at least {saved.step}"
            )
        self._restore(saved)

    def _restore(self, saved: Saved) -> None:
        self._checkpoints.load(saved, self._state.blank(saved.facts))
        self._state.load_facts(saved.facts)
        self.step = self._saved_step = saved.step

    def _write_model(self) -> None:
        self._folder.write(self.run_dir / "model", self.model, self.ema.averages if self.ema else {})

    def _append(self, line: dict[str, object]) -> None:
        if rank() == 0:
            self._log.append(line)

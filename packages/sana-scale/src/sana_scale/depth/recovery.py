"""Recovery after pruning: distillation of the unpruned model's output and features, as an objective for a trainer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sana_scale.depth.block_hooks import tokens_in, tokens_out
from sana_scale.depth.block_list import BlockList, block_list
from sana_scale.depth.plan import PrunePlan

Objective = Callable[[nn.Module, Any, Any], Tensor]
"""`(model, batch, draws) -> loss`: calls the model once, and draws the same numbers when it is called again."""


class Distillation:
    """An objective that holds a pruned model to the unpruned one, beside the loss that both were trained with.

    The loss is `task * objective + output * |v - v_teacher|^2 + features * (relative error of the tokens)`, each
    term a mean over the batch's samples. Both models see exactly the same input, since `objective` is run for both with
    the same draws. Fine-tuning alone, as in the paper, needs no more than `objective` itself.

    The token state after a kept block answers to the teacher's state before the next kept block: a block learns
    to do the work of those removed behind it.

    Args:
        objective: the training loss, `(model, batch, draws) -> loss`, such as flow matching.
        teacher: a copy of the model from before it was pruned, `copy.deepcopy(model)`; any dtype, the same device.
            It is put in eval mode and never trained; it is not part of the model that is trained or saved.
        plan: which blocks the student has.
        task: weight of `objective`.
        output: weight of the squared distance between the outputs.
        features: weight of the squared distance between token states, divided by the teacher's mean square.
        outlier_sigmas: token entries of the teacher beyond this many standard deviations are left out of the features:
            a few massive activations would outweigh all else. None keeps them.

    Raises:
        ValueError: a weight is negative or all are 0, or the teacher has another depth than the plan.

    Source: SANA-1.5, depth pruning (fine-tuning); TinyFusion (arXiv 2412.01199), section 3.4 (masked distillation).
    """

    def __init__(
        self,
        objective: Objective,
        teacher: nn.Module,
        plan: PrunePlan,
        *,
        task: float = 1.0,
        output: float = 1.0,
        features: float = 0.1,
        outlier_sigmas: float | None = 2.0,
    ) -> None:
        weights = {"task": task, "output": output, "features": features}
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"{name} is {weight}; a weight must not be negative")
        if not any(weights.values()):
            raise ValueError("task, output and features are all 0; there is nothing to learn from")
        if outlier_sigmas is not None and not outlier_sigmas > 0:
            raise ValueError(f"outlier_sigmas is {outlier_sigmas}; it must be positive, or None")
        depth = len(block_list(teacher, plan.blocks).blocks)
        if depth != plan.depth:
            raise ValueError(f"the teacher has {depth} blocks and the plan is for {plan.depth}: copy it before pruning")
        self.objective = objective
        self.teacher = teacher.eval().requires_grad_(False)
        self.plan = plan
        self.weights = weights
        self.outlier_sigmas = outlier_sigmas

    def __call__(self, model: nn.Module, batch: Any, draws: Any) -> Tensor:
        """The loss of one batch, a scalar in fp32."""
        student, kept = _unwrapped(model), self.plan.kept
        # What a student's block should leave behind: the state before the next kept block, at last that before the end.
        matched = [block - 1 for block in kept[1:]] + [self.plan.depth - 1]
        wants_features = self.weights["features"] > 0
        with torch.no_grad(), _Watch(self._blocks(self.teacher), matched if wants_features else []) as taught:
            self.objective(self.teacher, batch, draws)
        with _Watch(self._blocks(student), range(len(kept)) if wants_features else []) as learnt:
            task = self.objective(model, batch, draws)
        loss = self.weights["task"] * task.float()
        if self.weights["output"]:
            loss = loss + self.weights["output"] * _distance(learnt.output, taught.output)
        if wants_features:
            pairs = zip(learnt.states, taught.states, strict=True)
            errors = [self._relative_error(state, target) for state, target in pairs]
            loss = loss + self.weights["features"] * torch.stack(errors).mean()
        return loss

    def _blocks(self, model: nn.Module) -> BlockList:
        return block_list(model, self.plan.blocks)

    def _relative_error(self, state: Tensor, target: Tensor) -> Tensor:
        # Per sample, so that the loss does not depend on how a batch is divided.
        state, target = state.float().flatten(1), target.float().flatten(1)  # (B, N*D)
        weight = torch.ones_like(target)
        if self.outlier_sigmas is not None:
            center, spread = target.mean(1, keepdim=True), target.std(1, keepdim=True)
            weight = ((target - center).abs() <= self.outlier_sigmas * spread).float()
        error = (weight * (state - target).square()).sum(1)
        return (error / (weight * target.square()).sum(1).clamp(min=torch.finfo(torch.float32).tiny)).mean()


class _Watch:
    """Within this context: the output of a model and the tokens after some of its blocks, of its one call."""

    def __init__(self, held: BlockList, blocks: Sequence[int]) -> None:
        self._held = held
        self._blocks = blocks
        self._outputs: list[Tensor] = []
        self._states: dict[int, Tensor] = {}
        self._stack = ExitStack()

    @property
    def output(self) -> Tensor:
        """The model's output."""
        if len(self._outputs) != 1:
            raise ValueError(f"the objective called the model {len(self._outputs)} times; distillation needs one call")
        return self._outputs[0]

    @property
    def states(self) -> list[Tensor]:
        """The tokens after each of the blocks."""
        return [self._states[block] for block in self._blocks]

    def __enter__(self) -> "_Watch":
        self._stack.enter_context(self._held.model.register_forward_hook(self._keep_output))
        for index in self._blocks:
            hook = self._keeper(index)
            self._stack.enter_context(self._held.blocks[index].register_forward_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _keep_output(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        several = list(output.values()) if isinstance(output, Mapping) else output
        self._outputs.append(several if isinstance(several, Tensor) else several[0])

    def _keeper(self, index: int) -> Callable[..., None]:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self._states[index] = tokens_out(output, tokens_in(args, kwargs), index)

        return hook


def _distance(output: Tensor, target: Tensor) -> Tensor:
    return (output.float() - target.float()).square().flatten(1).mean(1).mean()


def _unwrapped(model: nn.Module) -> nn.Module:
    inner = getattr(model, "module", None)  # DistributedDataParallel
    return inner if isinstance(inner, nn.Module) else model

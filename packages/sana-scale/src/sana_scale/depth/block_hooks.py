"""Hooks that compare what goes into a block with what comes out, token by token."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Observation(NamedTuple):
    """One call of one block: its index, quantities per sample (B, Q) and timesteps (B,), on the block's device.

    Quantities: the importance, the relative change of norm, and the importance of each branch.
    """

    block: int
    quantities: Tensor
    timesteps: Tensor


class BlockHooks:
    """Within this context every call of a block, or of a window of consecutive blocks, gives an `Observation`."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        observe: Callable[[Observation], None],
        *,
        model: nn.Module | None = None,
        branches: Sequence[str] = (),
        window: int = 1,
    ) -> None:
        self._blocks = list(blocks)
        self._observe = observe
        self._model = model
        self._branches = branches
        self._window = window
        self._tokens: dict[int, Tensor] = {}  # that went into a block, by its index
        self._timestep: Tensor | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._model is not None:
            self._stack.enter_context(self._model.register_forward_pre_hook(self._read_timestep, with_kwargs=True))
        for index, block in enumerate(self._blocks):
            before, after = self._before(index), self._after(index)
            self._stack.enter_context(block.register_forward_pre_hook(before, with_kwargs=True))
            self._stack.enter_context(block.register_forward_hook(after, with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._tokens.clear()

    def _read_timestep(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        if arguments.get("timestep") is None:
            raise ValueError(f"{type(model).__name__} was called without a timestep, so time bins cannot be filled")
        self._timestep = torch.as_tensor(arguments["timestep"]).reshape(-1)

    def _before(self, index: int) -> Callable[..., None]:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # A copy, since a block may work in place.
            self._tokens[index] = tokens_in(args, kwargs).detach().clone()

        return hook

    def _after(self, index: int) -> Callable[..., None]:
        first = index - self._window + 1

        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            tokens = self._tokens[index]
            after = tokens_out(output, tokens, index)
            before = self._tokens.pop(first, None)
            if before is None:  # the window would begin before the first block
                return
            quantities = [turn(before, after), growth(before, after)]
            for branch in self._branches:
                quantities.append(turn(_without(block, branch, args, kwargs, tokens), after))
            self._observe(Observation(first, torch.stack(quantities, 1), self._timesteps(len(after), after.device)))

        return hook

    def _timesteps(self, batch: int, device: torch.device) -> Tensor:
        if self._timestep is None:
            return torch.zeros(batch, device=device)
        if len(self._timestep) not in (1, batch):
            raise ValueError(f"the model was given {len(self._timestep)} timesteps for {batch} samples in its blocks")
        timesteps: Tensor = self._timestep.to(device=device, dtype=torch.float32)
        return timesteps.expand(batch)


def turn(before: Tensor, after: Tensor) -> Tensor:
    """1 - the cosine between a token before and after, its channels last: the mean over each sample's tokens (B,).

    Computed as half the squared chord between the directions, which is the same and keeps its digits where the
    angle is small: 0 is exactly 0. A token of zeros has no direction; one that stays so counts 0.
    """
    chord = F.normalize(after.float(), dim=-1) - F.normalize(before.float(), dim=-1)  # (B, ..., D)
    return chord.square().sum(-1).reshape(len(chord), -1).mean(1) / 2


def growth(before: Tensor, after: Tensor) -> Tensor:
    """How much is added to a token relative to its norm: the mean of |after - before| / |before| per sample (B,).

    Tokens of zeros have no norm to compare with and do not count; a sample of nothing else gives 0.
    """
    norm = torch.linalg.vector_norm(before.float(), dim=-1).flatten(1)  # (B, N)
    change = torch.linalg.vector_norm(after.float() - before.float(), dim=-1).flatten(1)
    counted = norm > 0
    relative = torch.where(counted, change / norm, 0.0)
    mean: Tensor = relative.sum(1) / counted.sum(1).clamp(min=1)
    return mean


def tokens_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The tokens (B, ..., D) that a block is called with: its first argument, or `hidden_states`, or any tensor."""
    place = _tokens_place(args, kwargs)
    tokens: Tensor = args[place] if isinstance(place, int) else kwargs[place]
    if tokens.ndim < 2:
        raise ValueError(f"a block's tokens are {tuple(tokens.shape)}; expected (B, ..., D)")
    return tokens


def tokens_out(output: Any, tokens: Tensor, index: int) -> Tensor:
    """The tokens in a block's output: itself, or the first tensor in a tuple or mapping with the shape of `tokens`."""
    several = list(output.values()) if isinstance(output, Mapping) else output
    candidates = [several] if isinstance(several, Tensor) else list(several)
    for candidate in candidates:
        if isinstance(candidate, Tensor) and candidate.shape == tokens.shape:
            return candidate
    shapes = [tuple(c.shape) if isinstance(c, Tensor) else type(c).__name__ for c in candidates]
    raise ValueError(
        f"block {index} takes tokens {tuple(tokens.shape)} and returns {shapes}; only blocks that keep the shape of "
        "their tokens can be compared and removed"
    )


def _tokens_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | str:
    if args and isinstance(args[0], Tensor):
        return 0
    names = ["hidden_states", "x", *kwargs]
    for name in names:
        if isinstance(kwargs.get(name), Tensor):
            return name
    raise TypeError("a block was called without a tensor: its tokens must be its first argument, or hidden_states")


def _without(block: nn.Module, branch: str, args: tuple[Any, ...], kwargs: dict[str, Any], tokens: Tensor) -> Tensor:
    """What the block returns with the output of one of its modules set to zero."""
    place = _tokens_place(args, kwargs)
    if isinstance(place, int):
        args = (tokens.clone(), *args[1:])
    else:
        kwargs = kwargs | {place: tokens.clone()}
    with block.get_submodule(branch).register_forward_hook(_silence):
        return tokens_out(block.forward(*args, **kwargs), tokens, 0)  # not __call__: no hooks of the block itself


def _silence(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, Tensor):
        return torch.zeros_like(output)
    return type(output)((torch.zeros_like(output[0]), *output[1:]))

"""Bytes that a training step holds, counted by running it with tensors that have shapes and no values."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from sana.training.lora import make_lora
from sana.training.settings import LoraSettings
from sana_dit import SanaConfig, SanaTransformer
from sana_train import TrainConfig
from sana_train.preparation import prepare
from sana_train.train_step import autocast


@dataclass(frozen=True, kw_only=True, slots=True)
class StepShape:
    """What one forward pass takes: B samples of h x w latent cells with L caption tokens."""

    samples: int
    height: int
    width: int
    tokens: int


def activation_bytes(
    config: SanaConfig, shape: StepShape, *, train: TrainConfig, dtype: torch.dtype, lora: LoraSettings | None = None
) -> int:
    """The most that one forward and backward pass holds beside weights, gradients and optimizer state.

    Counts what autograd keeps, what is thrown away on the way, the bf16 copies of fp32 weights under autocast, and
    the one gradient that is being made. PyTorch's own operations are counted: fused kernels hold less. Models of two
    and three blocks are run; each block more adds as much as the third does.
    """
    two, three = (_peaks(replace(config, num_layers=depth), shape, train, dtype, lora) for depth in (2, 3))
    blocks = config.num_layers - 2
    return max(least + blocks * (more - least) for least, more in zip(two, three, strict=True))


def forward_flops(config: SanaConfig, shape: StepShape) -> int:
    """FLOPs of one forward pass, 2 per multiply-add, without the batch: those of one sample."""
    with torch.device("meta"):
        model = SanaTransformer(config)
        inputs = _inputs(config, replace(shape, samples=1))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*inputs)
    return int(counter.get_total_flops())


def _peaks(
    config: SanaConfig, shape: StepShape, train: TrainConfig, dtype: torch.dtype, lora: LoraSettings | None = None
) -> tuple[int, int]:
    """The most bytes live in the forward pass, and in the backward pass."""
    with torch.device("meta"):
        model = SanaTransformer(config).to(dtype)
        if lora:
            make_lora(model, lora, seed=0)
    with FakeTensorMode():
        _replace_parameters(model, _blank)
        prepare(model, replace(train, compile=False))
        for parameter in filter(lambda p: p.requires_grad, model.parameters()):
            parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
        inputs = _inputs(config, shape)
        with _LiveBytes([*model.parameters(), *inputs]) as live:
            with autocast(torch.device("cpu"), train):
                loss = model(*inputs).float().square().mean()
            forward, live.peak = live.peak, 0
            loss.backward()  # type: ignore[no-untyped-call]
    return forward, live.peak


def _inputs(config: SanaConfig, shape: StepShape) -> tuple[Tensor, ...]:
    latents = torch.empty(shape.samples, config.in_channels, shape.height, shape.width)
    caption = torch.empty(shape.samples, shape.tokens, config.caption_channels)
    return latents, torch.empty(shape.samples), caption, torch.ones(shape.samples, shape.tokens)


def _replace_parameters(model: nn.Module, make: Callable[[nn.Parameter], nn.Parameter]) -> None:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, make(parameter))


def _blank(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu"), parameter.requires_grad)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, until nobody holds them."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, result)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:  # a view, or changed in place
            return
        self._seen[storage] = True
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, count: int) -> None:
        self.live -= count

"""Bytes that operations keep and move, followed while they run on tensors of the meta device."""

import weakref
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Ledger(TorchDispatchMode):
    """Follows the operations inside.

    Views are free, and what was there before, such as weights, does not count as alive.

    Attributes:
        alive: Bytes of what operations made and something still holds, the tensors kept for gradients among it.
        peak: The most that were alive at once.
        moved: Bytes of all tensors that operations read and wrote.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.moved = 0
        self._followed: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation and enters it."""
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        for x in given:
            self._follow(x.untyped_storage(), made=False)
        result = func(*args, **(kwargs or {}))
        returned = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        made = [self._follow(x.untyped_storage(), made=True) for x in returned]
        if func._schema.is_mutable or any(made):
            self.moved += sum(x.nbytes for x in (*given, *returned))
        return result

    def _follow(self, storage: UntypedStorage, *, made: bool) -> bool:
        """Counts a storage until it dies, unless it is known; returns whether it was not."""
        key, size = id(storage), storage.nbytes() if made else 0
        if key in self._followed:
            return False
        self._followed.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, key, size)
        return True

    def _forget(self, key: int, size: int) -> None:
        self._followed.remove(key)
        self.alive -= size


class WholeNorms(TorchFunctionMode):
    """Makes an RMS norm one operation that keeps its input and a scale of each row.

    So it is on a GPU, and in sana_ae on a CPU; the meta device has only PyTorch's composition of it.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one function of PyTorch."""
        return _norm(args[0], kwargs["weight"])[0] if func is F.rms_norm else func(*args, **(kwargs or {}))


@torch.library.custom_op("benchmarks::rms_norm", mutates_args=())
def _norm(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("counted on the meta device only")


@_norm.register_fake
def _(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])


_norm.register_autograd(lambda ctx, *_: ctx.saved_tensors[:2], setup_context=_keep)

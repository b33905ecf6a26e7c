"""A Triton kernel with everything it is launched with."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Launch(NamedTuple):
    """One launch, as data: `run` does it, and without a GPU a compiler can be shown what would run."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]  # tensors, numbers, and None for a tensor there is not
    constants: dict[str, Any]  # what the kernel is compiled for, and `num_warps`

    def run(self) -> None:
        """Launches on the device of the first tensor."""
        first = next(x for x in self.arguments.values() if isinstance(x, Tensor))
        with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
            self.kernel[self.grid](**self.arguments, **self.constants)

"""CAME and CAME-8bit as torch optimizers (CAME, Algorithm 1; SANA-1.5, CAME-8bit)."""

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from sana_train.came.backends import Backend, check_backend
from sana_train.came.bucket import step_group
from sana_train.came.joining import check_all_joined, joined_members
from sana_train.came.saved_state import checked_state, wanted_state
from sana_train.came.settings import Settings
from sana_train.came.sharding import shards_of, zeros_beside
from sana_train.came.state import EightBit, Layout

_log = logging.getLogger(__name__)


class CAME(Optimizer):
    """Adafactor's factored second moment with a confidence in each update, and momentum in float32.

    Matrices and 1x1 convolutions, (O, I, 1, 1) as (O, I), are factored; other tensors keep their squares in full and
    have no confidence, as in SANA's code. State follows the parameters: plain tensors, or DTensors where they are
    sharded along their first dimension (FSDP2).

    The averages start at zero. As published, nothing corrects for that: the first step moves weights by 11 times lr,
    and it takes about 20 000 steps until that has decayed. Either warm up, or set `bias_correction`, with which the
    first step is about one lr.

    Args:
        params: parameters, or groups of them; a group may set any option below but `joined`.
        lr: learning rate; 1/3 to 1 of AdamW's.
        betas: of the averages of the update, of the squared gradient and of the squared residual.
        eps: added to the squared gradient and to the squared residual.
        clip_threshold: the greatest root mean square of a tensor's update.
        weight_decay: decoupled, as AdamW's.
        bias_correction: divide each average by 1 - beta^step.
        stochastic_rounding: round bfloat16 weights up or down at random, so that steps too small for the format count
            on average; the bits depend on `seed`, the step and the element only.
        seed: of stochastic rounding.
        joined: matrices of equal width to be updated as the one that they make on top of each other, such as the
            weights of q, k and v in a model that was trained with one weight for the three.
        backend: "eager", "compile" or "triton" (CUDA only; its kernels agree with "eager" in Triton's interpreter, but
            have not run on a GPU yet). They differ in the last bits.

    Raises:
        ValueError: an option is out of its range, a parameter is sharded along another dimension, or `joined` does not
            fit the parameters.
    """

    _blocks: Mapping[str, Any] = {"layout": None}  # a group's options of 8-bit momentum

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
        bias_correction: bool = False,
        stochastic_rounding: bool = False,
        seed: int = 0,
        joined: Sequence[Sequence[Tensor]] = (),
        backend: Backend = "eager",
    ) -> None:
        options: dict[str, Any] = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "stochastic_rounding": stochastic_rounding,
            "seed": seed,
            "joined": joined,
            "backend": backend,
        }
        super().__init__(params, options | dict(self._blocks))
        self.defaults["joined"] = ()
        check_all_joined(joined, self.param_groups)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient.

        Args:
            closure: evaluates the model and returns the loss; called first, if given.

        Raises:
            RuntimeError: a gradient is sparse, or only some of several joined matrices have one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._create_state(group, [p for p in group["params"] if p.grad is not None])
            step_group(group, self.state, self._numbers)
        return loss

    def init_state(self) -> None:
        """Create the state of every trained parameter as it is before the first step, to load a checkpoint into."""
        for group in self.param_groups:
            self._create_state(group, [p for p in group["params"] if p.requires_grad])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with options of its own or the optimizer's.

        Raises:
            ValueError: as the constructor.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            group["joined"] = joined_members(group["joined"], group["params"])
            _check(group)
        except (ImportError, ValueError):
            self.param_groups.pop()
            raise
        self._number_parameters()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a `state_dict()`: options and state, every tensor with the type and the bits it was saved with.

        The backend stays this optimizer's own; where the saved one was another, a warning says so.

        Raises:
            ValueError: the groups are others, or the state does not fit the parameters or the options beside it; then
                nothing has changed.
        """
        state: dict[Tensor, dict[str, Tensor]] = {}
        # torch checks the lengths. Its set_optimizer_state_dict of a full state loses a list that is empty.
        saved_groups = [{**group, "joined": group.get("joined", [])} for group in state_dict["param_groups"]]
        for group, saved in zip(self.param_groups, saved_groups, strict=False):
            state |= checked_state(group, saved, state_dict["state"])
        backends = [group["backend"] for group in self.param_groups]
        # Which would cast the state to the parameters' type.
        super().load_state_dict({**state_dict, "param_groups": saved_groups, "state": {}})
        for group, backend in zip(self.param_groups, backends, strict=True):
            if group["backend"] != backend:
                _log.warning("saved by backend %s, going on with %s: last bits will differ", group["backend"], backend)
            group["backend"] = backend
        for parameter, tensors in state.items():
            self.state[parameter] = {name: _copied(name, tensor, parameter) for name, tensor in tensors.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over groups and state; `load_state_dict` and pickle come here."""
        super().__setstate__(state)
        self._number_parameters()

    def _number_parameters(self) -> None:
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        self._numbers = {parameter: number for number, parameter in enumerate(parameters)}

    def _create_state(self, group: Mapping[str, Any], parameters: Sequence[Tensor]) -> None:
        fresh = [parameter for parameter in parameters if not self.state[parameter]]
        wanted = wanted_state(group) if fresh else {}
        for parameter in fresh:
            made = {
                name: zeros_beside(parameter, tensor.shape, tensor.dtype, divided=tensor.divided)
                for name, tensor in wanted[parameter].items()
            }
            self.state[parameter] = {"step": torch.tensor(0.0), **made}


class CAME8bit(CAME):
    """CAME with the momentum of large matrices in 8 bits: about 1.03 bytes of state per parameter.

    Each block of momentum is kept as round((m - low) / scale), scale = (high - low) / 255. The row and column means,
    and all of small matrices and other tensors, stay in float32. A step moves the weights by the exact momentum.

    Args:
        params: see `CAME`, as all arguments that are not below.
        lr: see `CAME`.
        betas: see `CAME`.
        eps: see `CAME`.
        clip_threshold: see `CAME`.
        weight_decay: see `CAME`.
        layout: "row": blocks do not cross rows, so that they do not depend on sharding. "flat": blocks of the matrix
            read row by row, exactly as in the paper; not for sharded parameters. "dynamic": flat blocks in
            bitsandbytes' dynamic code (extra `bnb`, backend "eager").
        block_size: values in a block, at most ("row") or exactly; for "dynamic" one that bitsandbytes has.
        min_8bit_size: matrices of at most so many elements, over all shards, are kept in float32.
        bias_correction: see `CAME`.
        stochastic_rounding: see `CAME`.
        seed: see `CAME`.
        joined: see `CAME`; the members count as one for `min_8bit_size`.
        backend: see `CAME`.

    Raises:
        ValueError: as `CAME`, or a layout or block size is unknown or does not fit the parameters.
        ImportError: the layout is "dynamic" and bitsandbytes is not installed.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
        layout: Layout = "row",
        block_size: int = 2048,
        min_8bit_size: int = 16384,
        bias_correction: bool = False,
        stochastic_rounding: bool = False,
        seed: int = 0,
        joined: Sequence[Sequence[Tensor]] = (),
        backend: Backend = "eager",
    ) -> None:
        self._blocks = {"layout": layout, "block_size": block_size, "min_8bit_size": min_8bit_size}
        super().__init__(
            params,
            lr,
            betas=betas,
            eps=eps,
            clip_threshold=clip_threshold,
            weight_decay=weight_decay,
            bias_correction=bias_correction,
            stochastic_rounding=stochastic_rounding,
            seed=seed,
            joined=joined,
            backend=backend,
        )


def _check(group: Mapping[str, Any]) -> None:
    """Raise ValueError or ImportError where a group cannot be stepped."""
    Settings.of(group)
    eight = EightBit.of(group)
    if eight and eight.layout == "dynamic" and not importlib.util.find_spec("bitsandbytes"):
        raise ImportError("layout='dynamic' needs bitsandbytes: pip install 'sana-train[bnb]'")
    check_backend(group)
    for parameter in group["params"]:
        if shards_of(parameter) and eight and eight.layout != "row":
            raise ValueError(
                f"layout={eight.layout!r} with a parameter {tuple(parameter.shape)} sharded over processes: its blocks "
                "would cross the shards; use layout='row'"
            )


def _copied(name: str, tensor: Tensor, parameter: Tensor) -> Tensor:
    """A copy beside the parameter; the step count stays where it can be read without waiting for a device."""
    return tensor.clone() if name == "step" else tensor.to(parameter.device, copy=True)

"""Denoising steps as CUDA graphs: a step of hundreds of small kernels is launched as one."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor

from sana_dit.conditioning import Conditioning
from sana_dit.embeddings import TimeStates
from sana_dit.ops.implementation import selected
from sana_dit.transformer import SanaTransformer

Replay = Callable[[], Tensor]

_WARM_UP_STEPS = 2  # run one by one: libraries and Triton set themselves up, which a recording must not see
_MAX_TOKENS = 2**15  # of a batch; beyond, kernels take longer than their launches, and a graph would keep gigabytes


def record_cuda_graph(function: Callable[[], Tensor]) -> Replay:
    """Records the kernels of `function` without running them; a replay overwrites and returns the same tensor.

    Raises:
        RuntimeError: The function does what a CUDA graph cannot, such as waiting for the device.
    """
    graph, stream, pool = torch.cuda.CUDAGraph(), torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
    try:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # of this device, as PyTorch's own need not be
        with torch.cuda.graph(graph, pool, stream=side, capture_error_mode="thread_local"):
            output = function()
    except BaseException:
        torch.cuda.set_stream(stream)  # a failed capture leaves its own
        _end_failed_capture(pool)
        raise

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def _end_failed_capture(pool: tuple[int, int]) -> None:
    """Ends what the end of a capture, when CUDA refuses it, leaves open: PyTorch stops at the error."""
    with suppress(RuntimeError, AttributeError):  # it had been ended after all; PyTorch 2.6 has no such function
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
    # The default generator still counts as captured, and torch.rand would raise: a capture that succeeds takes it over.
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=side, capture_error_mode="thread_local"):
        torch.zeros(1, device="cuda")  # PyTorch warns of an empty graph


class StepGraphs:
    """`model.denoise`, recorded as a graph for each shape of its arguments that comes a third time.

    Copies its arguments into the graph's own memory, so a graph serves every caption and step of its shape. All
    graphs are thrown away when a weight is elsewhere than it was (moved, cast, replaced) or adapters are loaded, fused
    or taken out, the least recently used one when there are more than `limit`. The model is called plainly where a
    graph cannot stand for it: with gradients or autocast, off the default stream, for batches of over 32768 tokens,
    and, after a warning that says why, once a recording has failed.

    Args:
        model: The transformer.
        limit: Graphs to keep.
    """

    def __init__(self, model: SanaTransformer, *, limit: int = 8):
        if limit < 1:
            raise ValueError(f"limit is {limit}; it must be at least 1")
        self.model = model
        self._limit = limit
        self._steps: OrderedDict[Hashable, _Step] = OrderedDict()
        self._weights: tuple[Hashable, ...] = ()
        self._adapters = model.adapters
        self._conditioning: Conditioning | None = None  # that the weights were last looked at for
        self._failed = False
        self._lock = Lock()  # two threads must not fill the same memory

    def __len__(self) -> int:
        """Returns the number of recorded graphs."""
        return sum(step.replay is not None for step in self._steps.values())

    def __call__(self, latents: Tensor, time: TimeStates, conditioning: Conditioning) -> Tensor:
        """Returns what `model.denoise` returns for these arguments."""
        if self._failed or not self._can_record(latents, conditioning):
            return self.model.denoise(latents, time, conditioning)
        with self._lock:
            step = self._step(latents, time, conditioning)
            if step.replay is None and step.runs < _WARM_UP_STEPS:
                step.runs += 1
                return _on_side_stream(lambda: self.model.denoise(latents, time, conditioning), latents.device)
            if step.replay is None:
                step.allocate(latents, time, conditioning)
                if not self._try_to_record(step):
                    return self.model.denoise(latents, time, conditioning)
            return step(latents, time, conditioning)

    def _can_record(self, latents: Tensor, conditioning: Conditioning) -> bool:
        tokens = conditioning.batch * latents.shape[2] * latents.shape[3] // self.model.config.patch_size**2
        if torch.is_grad_enabled() or torch.is_autocast_enabled(latents.device.type) or tokens > _MAX_TOKENS:
            return False
        device = latents.device
        return device.type != "cuda" or torch.cuda.current_stream(device) == torch.cuda.default_stream(device)

    def _step(self, latents: Tensor, time: TimeStates, conditioning: Conditioning) -> "_Step":
        if self.model.adapters is not self._adapters:  # these are other kernels, though no weight need have moved
            self._adapters = self.model.adapters
            self._steps.clear()
        if conditioning is not self._conditioning or self.model.final.proj.weight.data_ptr() != self._weights[-1]:
            self._conditioning = conditioning
            self._check_weights()
        key = (selected(), *map(_shape, (latents, *time, *conditioning)))
        step = self._steps.setdefault(key, _Step())
        self._steps.move_to_end(key)
        if len(self._steps) > self._limit:
            self._steps.popitem(last=False)
        return step

    def _check_weights(self) -> None:
        weights = _places(self.model)  # milliseconds, so once per picture
        if weights != self._weights:
            self._steps.clear()
            self._weights = weights

    def _try_to_record(self, step: "_Step") -> bool:
        latents, time, conditioning = step.arguments
        try:
            with torch.cuda.device(latents.device) if latents.is_cuda else nullcontext():
                step.replay = record_cuda_graph(lambda: self.model.denoise(latents, time, conditioning))
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a capture hides what went wrong inside
            reason = str(cause).partition("\n")[0]
            warnings.warn(f"this model runs without CUDA graphs, one could not be recorded: {reason}", stacklevel=4)
            self._failed = True
            self._steps.clear()
        return not self._failed


@dataclass
class _Step:
    """One shape: how often it was run, and then its graph with the memory that the graph reads."""

    runs: int = 0
    replay: Replay | None = None
    arguments: tuple[Tensor, TimeStates, Conditioning] = field(init=False)
    conditioning: Conditioning | None = None  # that the memory holds a copy of

    def allocate(self, latents: Tensor, time: TimeStates, conditioning: Conditioning) -> None:
        """Takes memory for arguments like these."""
        with torch.inference_mode(False):  # a tensor made within could not be written to outside
            own = Conditioning(*map(_empty_like, conditioning))  # type: ignore[arg-type]  # None where that is
            self.arguments = torch.empty_like(latents), TimeStates(*map(torch.empty_like, time)), own

    def __call__(self, latents: Tensor, time: TimeStates, conditioning: Conditioning) -> Tensor:
        """Replays the graph with these arguments."""
        assert self.replay is not None
        own_latents, own_time, own_conditioning = self.arguments
        own_latents.copy_(latents)
        for target, source in zip(own_time, time, strict=True):
            target.copy_(source)
        if conditioning is not self.conditioning:
            self.conditioning = conditioning
            for own, given in zip(own_conditioning, conditioning, strict=True):
                if own is not None and given is not None:
                    own.copy_(given)
        return self.replay().clone()


def _on_side_stream(function: Callable[[], Tensor], device: torch.device) -> Tensor:
    if device.type != "cuda":
        return function()
    current = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        output = function()
    current.wait_stream(stream)
    output.record_stream(current)
    return output


def _empty_like(x: Tensor | None) -> Tensor | None:
    return None if x is None else torch.empty_like(x, memory_format=torch.contiguous_format)


def _shape(x: Tensor | None) -> Hashable:
    return None if x is None else (x.shape, x.dtype, x.device)


def _places(model: SanaTransformer) -> tuple[Hashable, ...]:
    """Where the weights are, and in what form: a graph reads them there whatever they have become."""
    places = [(x.data_ptr(), x.dtype, x.shape, x.stride()) for x in model.parameters()]
    return (*places, model.final.proj.weight.data_ptr())

"""From noise to latents: Flow-DPM-Solver and Euler (SANA) and sCM for Sprint (SANA-Sprint, section 3).

The flow is `x = (1 - sigma) x0 + sigma noise`, the model predicts the velocity `v = noise - x0`, and so every
sampler here reads the same estimate of the image out of it: `x0 = x - sigma v`.
"""

import math
import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""`(x (B,C,h,w) fp32, t (B,)) -> v (B,C,h,w)`, where t is the timestep that the model takes."""

Step = Callable[[Tensor, int], Tensor]
"""`(x (B,C,h,w) fp32, i) -> v (B,C,h,w)` at the i-th timestep of a schedule."""

OnStep = Callable[[int, Tensor], object]
"""Called after each evaluation of the model with the step's index and the current estimate of x0 (B,C,h,w)."""


@runtime_checkable
class Scheduled(Protocol):
    """A velocity that can prepare for all timesteps of a sampler at once, as `guided_velocity` returns it."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """Returns the velocity at t."""

    def scheduled(self, timesteps: Tensor) -> Step:
        """Returns the steps at timesteps (steps,)."""


TRAIN_TIMESTEPS = 1000
SCM_FIRST_ANGLE = 1.5708  # of pure noise: pi/2 rounded up, as Sprint's checkpoints are sampled
SCM_SECOND_ANGLE = 1.3  # of the second step, when there are two


def flow_sigmas(steps: int, shift: float) -> tuple[Tensor, Tensor]:
    """Returns the noise levels and timesteps of a flow sampler, both descending.

    Sigmas are (steps+1,) fp32, of which the last is 0, timesteps (steps,) int64 = floor(1000 sigma): the
    models were trained on whole timesteps. Above some 500 steps neighbours can share a timestep, never a sigma.
    Raises ValueError unless steps is a whole number >= 1 and shift is positive. Source: SANA, Flow-DPM-Solver.
    """
    _check_steps(steps)
    if not (shift > 0 and math.isfinite(shift)):
        raise ValueError(f"shift is {shift!r}; it must be a positive number: 3.0 is usual, 6.0 for 4096 pixels")
    # In float64: the floor below must not depend on how fp32 rounds a sigma that lies on a whole timestep.
    uniform = 1.0 - np.linspace(1.0, 1.0 / TRAIN_TIMESTEPS, steps + 1)
    sigmas = np.flip(shift * uniform / (1 + (shift - 1) * uniform)).copy()  # ends in 0
    timesteps = (sigmas[:-1] * TRAIN_TIMESTEPS).astype(np.int64)
    return torch.from_numpy(sigmas.astype(np.float32)), torch.from_numpy(timesteps)


@torch.no_grad()
def flow_dpm_solver(
    velocity: Velocity, noise: Tensor, *, steps: int = 20, shift: float = 3.0, on_step: OnStep | None = None
) -> Tensor:
    """Samples with multistep DPM-Solver++ of order 2 (midpoint); the first and the last step are of order 1.

    noise (B,C,h,w) of unit variance -> latents (B,C,h,w) fp32; one evaluation of the model per step. With
    alpha = 1 - sigma the exponential integrator's step is a blend of x and x0 in the ratio of the two sigmas.
    Source: Algorithm 2 of DPM-Solver++ (arXiv 2211.01095) on the flow of SANA.
    """
    sigmas, timesteps = flow_sigmas(steps, shift)
    levels = [float(sigma) for sigma in sigmas]
    x = noise.float()
    step = _scheduled(velocity, timesteps.to(x.device))
    previous = x  # x0 of the step before; read from the second step on
    for i, (sigma, lower) in enumerate(pairwise(levels)):
        v = step(x, i).float()
        x0 = x - sigma * v
        target = x0
        if 0 < i < steps - 1:
            ahead = _log_snr(lower) - _log_snr(sigma)
            behind = _log_snr(sigma) - _log_snr(levels[i - 1])
            target = x0 + ahead / (2 * behind) * (x0 - previous)
        x = lower / sigma * x + (1 - lower / sigma) * target
        previous = x0
        if on_step is not None:
            on_step(i, x0)
    return x


@torch.no_grad()
def euler(
    velocity: Velocity, noise: Tensor, *, steps: int = 20, shift: float = 3.0, on_step: OnStep | None = None
) -> Tensor:
    """Samples with explicit Euler steps along the flow, on the same noise levels as `flow_dpm_solver`.

    noise (B,C,h,w) of unit variance -> latents (B,C,h,w) fp32; one evaluation of the model per step.
    """
    sigmas, timesteps = flow_sigmas(steps, shift)
    levels = [float(sigma) for sigma in sigmas]
    x = noise.float()
    step = _scheduled(velocity, timesteps.to(x.device))
    for i, (sigma, lower) in enumerate(pairwise(levels)):
        v = step(x, i).float()
        if on_step is not None:
            on_step(i, x - sigma * v)
        x = x + (lower - sigma) * v
    return x


@torch.no_grad()
def scm(
    velocity: Velocity,
    noise: Tensor,
    *,
    steps: int,
    generators: Sequence[torch.Generator],
    on_step: OnStep | None = None,
) -> Tensor:
    """Samples a Sprint model: predicts x0, adds fresh noise of the next, smaller level, and repeats.

    noise (B,C,h,w) of unit variance -> latents (B,C,h,w) fp32. The velocity is asked at sigma in [0, 1], which is
    the timestep of Sprint models. generators are the B that drew noise (`draw_noise`): each sample goes on drawing
    from its own, once a step. Raises ValueError if their number is not B, or if they draw noise once more.
    Source: SANA-Sprint, section 3, which maps sCM's circle (cos t, sin t) onto the flow.
    """
    _check_steps(steps)
    if len(generators) != len(noise):
        raise ValueError(
            f"{len(generators)} generators for {len(noise)} samples; each sample needs its own: "
            "pass the list given to draw_noise"
        )
    angles = _scm_angles(steps)
    # (cos t) x0 + (sin t) noise, divided by cos t + sin t, is the flow's (1 - sigma) x0 + sigma noise.
    sizes = angles.cos() + angles.sin()
    sigmas = angles.sin() / sizes
    x = noise.float()
    step = _scheduled(velocity, sigmas[:-1].to(x.device))
    for i, lower in enumerate(angles[1:]):
        x = x / sizes[i].item()
        x0 = x - sigmas[i].item() * step(x, i).float()
        if on_step is not None:
            on_step(i, x0)
        # Drawn after the last step too, times sin 0: then a generator ends where diffusers leaves it.
        fresh = draw_noise(generators, noise.shape[1:]).to(x.device)
        if i == 0 and (fresh.to(noise.dtype) == noise).flatten(1).all(1).any():
            raise ValueError(
                "the generators draw the starting noise again: noise = draw_noise(generators, shape), and then "
                "scm(..., generators=generators) with the same list"
            )
        x = lower.cos().item() * x0 + lower.sin().item() * fresh
    return x


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Returns starting noise (len(seeds), *shape) in fp32 on the CPU; sample k depends on seeds[k] and shape only."""
    return draw_noise(seeded_generators(seeds), shape)


def seeded_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Returns one CPU generator per sample, each seeded with that sample's own seed."""
    return [torch.Generator("cpu").manual_seed(operator.index(seed)) for seed in seeds]


def draw_noise(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Draws normal noise (len(generators), *shape) in fp32; each sample is drawn from its own generator."""
    if not generators:
        raise ValueError("no seeds or generators were given; noise needs one per sample")
    draws = [torch.randn((1, *shape), generator=g, device=g.device, dtype=torch.float32) for g in generators]
    return torch.cat(draws)


def _scheduled(velocity: Velocity, timesteps: Tensor) -> Step:
    """The steps at `timesteps` (steps,); a velocity with a method `scheduled` prepares itself for all of them."""
    if isinstance(velocity, Scheduled):
        return velocity.scheduled(timesteps)
    return lambda x, i: velocity(x, timesteps[i].expand(len(x)))


def _scm_angles(steps: int) -> Tensor:
    if steps == 2:
        return torch.tensor([SCM_FIRST_ANGLE, SCM_SECOND_ANGLE, 0.0])
    return torch.linspace(SCM_FIRST_ANGLE, 0.0, steps + 1)


def _log_snr(sigma: float) -> float:
    return math.log((1 - sigma) / sigma)


def _check_steps(steps: int) -> None:
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; it must be a whole number of at least 1")

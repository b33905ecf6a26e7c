import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, SCMScheduler
from torch import Tensor

from sana_dit.sampling import (
    draw_noise,
    euler,
    flow_dpm_solver,
    flow_sigmas,
    scm,
    seeded_generators,
    seeded_noise,
)

# diffusers' DPM scheduler hands a tensor to np.array, which NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (3, 4, 5)


def curved(x: Tensor, t: Tensor) -> Tensor:
    """A velocity that depends on the sample, bends in x, and tells neighbouring timesteps apart."""
    assert t.shape == x.shape[:1]
    return torch.tanh(1.5 * x) - 0.4 * x + torch.cos(t / 90).view(-1, 1, 1, 1)


def diffusers_scheduler(shift: float) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(flow_shift=shift, use_flow_sigmas=True, prediction_type="flow_prediction")


def diffusers_dpm_trajectory(noise: Tensor, *, steps: int, shift: float) -> list[Tensor]:
    scheduler = diffusers_scheduler(shift)
    scheduler.set_timesteps(steps)
    x, states = noise, []
    for t in scheduler.timesteps:
        x = scheduler.step(curved(x, t.expand(len(x))), t, x, return_dict=False)[0]
        states.append(x)
    return states


def diffusers_scm(noise: Tensor, generator: list[torch.Generator], *, steps: int) -> Tensor:
    """SanaSprintPipeline's loop around its scheduler."""
    scheduler = SCMScheduler()
    scheduler.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    scheduler.set_begin_index(0)
    latents, x0 = noise * 0.5, noise
    for t in scheduler.timesteps[:-1]:
        s = torch.sin(t) / (torch.cos(t) + torch.sin(t))
        norm = torch.sqrt(s**2 + (1 - s) ** 2)
        x = latents / 0.5 * norm
        v = ((1 - 2 * s) * x + (1 - 2 * s + 2 * s**2) * curved(x, s.expand(len(x)))) / norm
        latents, x0 = scheduler.step(v * 0.5, t, latents, generator=generator, return_dict=False)
    return x0 / 0.5


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
def test_sigmas_and_timesteps_are_those_of_diffusers_bit_for_bit(shift: float) -> None:
    scheduler = diffusers_scheduler(shift)
    for steps in [*range(1, 51), 100, 500, 1000]:
        scheduler.set_timesteps(steps)
        sigmas, timesteps = flow_sigmas(steps, shift)
        torch.testing.assert_close(sigmas, scheduler.sigmas, rtol=0, atol=0)
        torch.testing.assert_close(timesteps, scheduler.timesteps, rtol=0, atol=0)


def test_twenty_steps_visit_the_published_timesteps() -> None:
    sigmas, timesteps = flow_sigmas(20, 3.0)
    assert timesteps.tolist()[:6] == [999, 982, 963, 944, 922, 899]
    assert timesteps.tolist()[-3:] == [345, 249, 136]
    assert (sigmas.dtype, timesteps.dtype) == (torch.float32, torch.int64)
    assert sigmas[-1] == 0


@pytest.mark.parametrize("steps", [0, -3, 2.5, 20.0, "20", None])
def test_steps_must_be_a_whole_number(steps: int) -> None:
    with pytest.raises(ValueError, match="steps is"):
        flow_sigmas(steps, 3.0)
    with pytest.raises(ValueError, match="steps is"):
        scm(curved, seeded_noise([0], SHAPE), steps=steps, generators=seeded_generators([0]))


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan"), float("inf")])
def test_the_shift_must_be_positive(shift: float) -> None:
    with pytest.raises(ValueError, match="shift is"):
        flow_dpm_solver(curved, seeded_noise([0], SHAPE), shift=shift)


# fp32 rounds each step at 6e-8 relative; 50 steps of a velocity with slope below 2 stay well under 1e-5.
@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 14, 20, 50])
def test_dpm_solver_follows_diffusers(steps: int, shift: float) -> None:
    noise = seeded_noise([0, 1], SHAPE)
    ours = flow_dpm_solver(curved, noise, steps=steps, shift=shift)
    theirs = diffusers_dpm_trajectory(noise, steps=steps, shift=shift)[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_every_state_of_dpm_solver_follows_diffusers() -> None:
    noise, seen = seeded_noise([0, 1], SHAPE), []

    def recording(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return curved(x, t)

    flow_dpm_solver(recording, noise, steps=20)
    expected = [noise, *diffusers_dpm_trajectory(noise, steps=20, shift=3.0)[:-1]]
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)


def test_dpm_solver_is_of_second_order_where_euler_is_of_first() -> None:
    # Halving the step must quarter the error of the one and halve that of the other.
    def smooth(x: Tensor, t: Tensor) -> Tensor:
        return 0.8 * x + torch.sin(3 * x)

    noise = seeded_noise([0], SHAPE)
    exact = flow_dpm_solver(smooth, noise, steps=400, shift=1.0)

    def error(steps: int, sample) -> float:
        return float((sample(smooth, noise, steps=steps, shift=1.0) - exact).norm())

    assert error(10, flow_dpm_solver) / error(20, flow_dpm_solver) > 2.8  # 4 less what the two end steps take
    assert 1.6 < error(10, euler) / error(20, euler) < 2.6
    assert error(20, flow_dpm_solver) < error(20, euler) / 4


@pytest.mark.parametrize("sample", [flow_dpm_solver, euler])
def test_equal_timesteps_of_a_thousand_steps_are_different_steps(sample) -> None:
    # diffusers finds its place by timestep and starts at its second step here; ours must take all thousand.
    assert flow_sigmas(1000, 3.0)[1].unique().numel() < 1000
    noise, calls = seeded_noise([0], SHAPE), []

    def to_image(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return noise - 0.25

    out = sample(to_image, noise, steps=1000)
    assert len(calls) == 1000
    # A constant velocity takes sigma_0 of its length in all, in steps whose rounding adds up to 1000 * 6e-8.
    start = float(flow_sigmas(1000, 3.0)[0][0])
    torch.testing.assert_close(out, noise - start * (noise - 0.25), rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 5, 28])
def test_euler_takes_the_steps_of_diffusers_euler_on_our_sigmas(steps: int) -> None:
    noise = seeded_noise([0, 1], SHAPE)
    sigmas, timesteps = flow_sigmas(steps, 3.0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas[:-1].tolist())
    expected = noise
    for ours, theirs in zip(timesteps, scheduler.timesteps, strict=True):
        v = curved(expected, ours.expand(2))
        expected = scheduler.step(v, theirs, expected, return_dict=False)[0]
    torch.testing.assert_close(euler(curved, noise, steps=steps), expected, rtol=1e-5, atol=1e-5)


# The circle's pi/2 is rounded to 1.5708, where cos is 4e-6 with an fp32 error of 6e-8: 1e-5 holds with room.
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_scm_gives_the_seeded_images_of_diffusers(steps: int) -> None:
    theirs_from, ours_from = seeded_generators([7, 8]), seeded_generators([7, 8])
    expected = diffusers_scm(draw_noise(theirs_from, SHAPE), theirs_from, steps=steps)
    ours = scm(curved, draw_noise(ours_from, SHAPE), steps=steps, generators=ours_from)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    # The generators end in the same place too, so a second image from them is again the same.
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(theirs_from, ours_from, strict=True))


def test_scm_asks_for_times_between_zero_and_one() -> None:
    times = []

    def recording(x: Tensor, t: Tensor) -> Tensor:
        times.append(t[0].item())
        return curved(x, t)

    generators = seeded_generators([0])
    scm(recording, draw_noise(generators, SHAPE), steps=2, generators=generators)
    assert times == pytest.approx([1.0, math.tan(1.3) / (1 + math.tan(1.3))], abs=1e-5)


def test_a_seed_names_an_image_whatever_its_company() -> None:
    def sample(seeds: list[int]) -> Tensor:
        generators = seeded_generators(seeds)
        return scm(curved, draw_noise(generators, SHAPE), steps=3, generators=generators)

    together, alone = sample([3, 1, 4]), sample([4])
    torch.testing.assert_close(together[2:], alone, rtol=1e-6, atol=1e-6)


def test_scm_needs_a_generator_for_each_sample() -> None:
    with pytest.raises(ValueError, match="1 generators for 2 samples"):
        scm(curved, seeded_noise([0, 1], SHAPE), steps=2, generators=seeded_generators([0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scm_refuses_generators_that_draw_the_starting_noise_again(dtype: torch.dtype) -> None:
    noise = torch.cat([torch.randn(1, *SHAPE), seeded_noise([1], SHAPE)]).to(dtype)
    with pytest.raises(ValueError, match="draw the starting noise again: noise = draw_noise"):
        scm(curved, noise, steps=2, generators=seeded_generators([0, 1]))


def test_seeded_noise_is_torchs_noise_for_each_seed() -> None:
    noise = seeded_noise([5, 6], SHAPE)
    alone = torch.randn((1, *SHAPE), generator=torch.Generator("cpu").manual_seed(6))
    assert torch.equal(noise[1:], alone)
    assert not torch.equal(noise[:1], alone)
    with pytest.raises(ValueError, match="no seeds"):
        seeded_noise([], SHAPE)
    with pytest.raises(TypeError):
        seeded_noise([0.5], SHAPE)


@pytest.mark.parametrize("sample", [flow_dpm_solver, euler])
def test_on_step_sees_every_estimate_of_the_image(sample) -> None:
    image, noise = torch.full((1, *SHAPE), 0.25), seeded_noise([0], SHAPE)
    seen: dict[int, Tensor] = {}
    # This velocity points from the image to the noise, so every estimate is the image.
    out = sample(lambda x, t: noise - image, noise, steps=4, on_step=seen.__setitem__)
    assert list(seen) == [0, 1, 2, 3]
    # Off the straight line only by the first sigma, 0.99967 and not 1, times a velocity of length below 5.
    for estimate in [*seen.values(), out]:
        torch.testing.assert_close(estimate, image, rtol=0, atol=5 * 3.4e-4)


def test_on_step_of_scm_ends_with_the_image() -> None:
    generators, seen = seeded_generators([0]), []
    out = scm(
        curved,
        draw_noise(generators, SHAPE),
        steps=3,
        generators=generators,
        on_step=lambda i, x0: seen.append(x0),
    )
    assert len(seen) == 3
    assert torch.equal(seen[-1], out)


def test_the_state_stays_in_float32_and_keeps_no_graph() -> None:
    noise = seeded_noise([0], SHAPE)
    scale = torch.ones((), dtype=torch.bfloat16, requires_grad=True)
    for sample in (flow_dpm_solver, euler):
        out = sample(lambda x, t: x.bfloat16() * scale, noise.bfloat16(), steps=3)
        assert out.dtype == torch.float32
        assert not out.requires_grad

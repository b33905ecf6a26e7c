"""Settings of a scheduler: what is refused changes what diffusers draws, what is let through does not."""

import json
import re

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, SCMScheduler

from sana.pipeline_scheduler import read_flow_shift

FLOW = {"flow_shift": 3.0, "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
NOISE = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))


def velocity(x, t):
    return torch.sin(3 * x) * (1 + t.reshape(-1, 1, 1, 1) / 1000)


def settings(scheduler):
    return json.loads(scheduler.to_json_string())


def sample(scheduler, steps=8):
    """What diffusers samples; with the plain settings that is ours, as sana-dit's tests of its sampler show."""
    x = NOISE
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        (x,) = scheduler.step(velocity(x, t.expand(len(x))), t, x, return_dict=False)
    return x


PLAIN = sample(DPMSolverMultistepScheduler(**FLOW))


@pytest.mark.parametrize(
    "harmless",
    [
        {},
        {"lower_order_final": False},
        {"euler_at_final": True},
        {"timestep_spacing": "trailing"},
        {"use_dynamic_shifting": True},
        {"beta_schedule": "scaled_linear"},
    ],
)
def test_settings_that_change_nothing_are_let_through(harmless):
    scheduler = DPMSolverMultistepScheduler(**FLOW | harmless)
    assert read_flow_shift(settings(scheduler)) == 3.0
    assert torch.equal(sample(scheduler), PLAIN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("algorithm_type", "sde-dpmsolver++"),
        ("prediction_type", "epsilon"),
        ("thresholding", True),
        ("num_train_timesteps", 500),
        ("solver_order", 1),
        ("solver_order", 3),
        ("final_sigmas_type", "sigma_min"),
        ("solver_type", "heun"),
    ],
)
def test_settings_that_change_the_sample_are_refused_by_name(name, value):
    scheduler = DPMSolverMultistepScheduler(**FLOW | {name: value})
    assert not torch.allclose(sample(scheduler), PLAIN, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=re.escape(f"has {name} {value!r}, not")):
        read_flow_shift(settings(scheduler))


@pytest.mark.parametrize("name", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"])
def test_other_noise_levels_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"has {name} True, not False"):
        read_flow_shift({"_class_name": "DPMSolverMultistepScheduler", **FLOW, name: True})


def test_what_a_file_leaves_out_is_diffusers_default():
    with pytest.raises(ValueError, match="use_flow_sigmas False, not True; prediction_type 'epsilon', not"):
        read_flow_shift({"_class_name": "DPMSolverMultistepScheduler"})
    bare = {"_class_name": "DPMSolverMultistepScheduler", **FLOW}
    del bare["flow_shift"]
    assert read_flow_shift(bare) == 1.0


@pytest.mark.parametrize("shift", [0, -1.0, float("nan"), True, "3"])
def test_a_shift_is_a_positive_number(shift):
    with pytest.raises(ValueError, match="flow_shift of scheduler"):
        read_flow_shift({"_class_name": "DPMSolverMultistepScheduler", **FLOW, "flow_shift": shift})


def test_sprint_has_no_shift_and_predicts_trigflow():
    assert read_flow_shift(settings(SCMScheduler(sigma_data=0.5))) == 1.0
    with pytest.raises(ValueError, match="prediction_type 'sample', not 'trigflow'"):
        read_flow_shift(settings(SCMScheduler()) | {"prediction_type": "sample"})


def test_eulers_method_is_another_sampler_and_the_message_says_how_to_draw_with_ours():
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert not torch.allclose(sample(theirs), PLAIN, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="replace the file by") as error:
        read_flow_shift(settings(theirs))
    assert read_flow_shift(json.loads(str(error.value).partition("replace the file by ")[2])) == 3.0

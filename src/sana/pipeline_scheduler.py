"""The scheduler's file of a pipeline: which sampler it asks for, and which of its settings are not computed here."""

import math
from collections.abc import Mapping
from typing import Any

SCHEDULER = "scheduler/scheduler_config.json"
FLOW_DPM, SCM = "DPMSolverMultistepScheduler", "SCMScheduler"
_EULER = "FlowMatchEulerDiscreteScheduler"
_COMPUTED: dict[str, dict[str, object]] = {
    FLOW_DPM: {
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "solver_type": "midpoint",
        "final_sigmas_type": "zero",
        "num_train_timesteps": 1000,
        "thresholding": False,
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "use_lu_lambdas": False,
    },
    SCM: {"prediction_type": "trigflow"},
}
"""The settings that change what diffusers draws, with the values that are drawn here; the others change nothing."""
_DEFAULTS = {FLOW_DPM: {"use_flow_sigmas": False, "prediction_type": "epsilon"}, SCM: {}}
"""What diffusers takes a missing setting for, where that is not the value above."""


def read_flow_shift(scheduler: Mapping[str, Any]) -> float:
    """Returns the shift of the noise levels, 1 for Sprint, which has none.

    Raises:
        ValueError: Sana is not sampled with this scheduler, or some settings of it are not computed here.
    """
    kind = str(scheduler.get("_class_name"))
    if kind not in _COMPUTED:
        raise ValueError(
            f"the scheduler of {SCHEDULER} is {kind}; it must be a {FLOW_DPM} with use_flow_sigmas, or for Sprint a "
            f"{SCM}" + (_instead_of_euler(scheduler) if kind == _EULER else "")
        )
    other = [
        f"{name} {found!r}, not {value!r}"
        for name, value in _COMPUTED[kind].items()
        if (found := scheduler.get(name, _DEFAULTS[kind].get(name, value))) != value
    ]
    if other:
        raise ValueError(
            f"the {kind} of {SCHEDULER} has {'; '.join(other)}: such images are not drawn here, so draw them with "
            "diffusers, or change the file"
        )
    shift = 1.0 if kind == SCM else scheduler.get("flow_shift", 1.0)  # diffusers' default
    if isinstance(shift, bool) or not (isinstance(shift, int | float) and 0 < shift < math.inf):
        raise ValueError(f"flow_shift of {SCHEDULER} is {shift!r}; it must be a positive number")
    return float(shift)


def _instead_of_euler(scheduler: Mapping[str, Any]) -> str:
    """Its noise levels are others (the last of them is 0.009 at a shift of 3), and so would the images be."""
    shift = scheduler.get("shift", 1.0)
    return (
        ". To draw with Flow-DPM-Solver instead of Euler's method, replace the file by "
        f'{{"_class_name": "{FLOW_DPM}", "prediction_type": "flow_prediction", "use_flow_sigmas": true, '
        f'"flow_shift": {shift}}}'
    )

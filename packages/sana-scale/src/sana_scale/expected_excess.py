"""How much the next draw is expected to exceed a level, when the draws so far are all that is known."""

import math
from collections.abc import Sequence
from statistics import fmean


def expected_excess(draws: Sequence[float], level: float) -> float:
    """E[max(x - level, 0)] for the next draw x, normal with unknown mean and variance; needs 3 draws.

    With the usual flat prior x is mean + scale * t of n - 1 degrees of freedom, scale = stdev * sqrt(1 + 1/n)
    (Gelman et al., Bayesian Data Analysis, section 3.2).
    """
    count = len(draws)
    mean = fmean(draws)
    variance = math.fsum((draw - mean) ** 2 for draw in draws) / (count - 1)
    scale = math.sqrt(variance * (1 + 1 / count))
    if scale == 0:
        return max(mean - level, 0.0)
    freedom, z = count - 1, (level - mean) / scale
    tail = (freedom + z * z) / (freedom - 1) * student_density(z, freedom) - z * student_tail(z, freedom)
    return scale * max(tail, 0.0)


def student_density(t: float, freedom: int) -> float:
    """The density of Student's t at `t`."""
    log_norm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    return math.exp(log_norm - (freedom + 1) / 2 * math.log1p(t * t / freedom))


def student_tail(t: float, freedom: int) -> float:
    """P(T > t): the finite series for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine2 = math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine2 * (k - 1) / k
    inside = total * math.sin(angle)
    if odd:
        inside = (angle + inside) * 2 / math.pi
    return (1 - inside) / 2

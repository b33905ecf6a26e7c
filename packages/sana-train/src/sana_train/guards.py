"""What must hold before a step may touch the weights: finite numbers, and no spike above the steps before it."""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence

# A window of equal values has no deviation of its own: 5% of its mean stands in, so 6 sigmas are 30% above it.
DEVIATION_FLOOR = 0.05


class SpikeGuard:
    """Judges the loss and the gradient norm of a step against the accepted ones of the last steps.

    A value is a spike where it lies more than `sigmas` standard deviations above the mean of the window. Low values
    are never spikes, and what was refused does not enter the window, so one spike does not excuse the next.

    Args:
        sigmas: how many standard deviations are too many, or None to ask for finite values only.
        window: how many accepted steps are compared with.
        minimum: accepted steps before anything but finiteness is judged.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, *, sigmas: float | None = 6.0, window: int = 128, minimum: int = 32) -> None:
        if sigmas is not None and not (math.isfinite(sigmas) and sigmas > 0):
            raise ValueError(f"sigmas is {sigmas}; it must be a positive number, or None to look for NaN only")
        if not 2 <= minimum <= window:
            raise ValueError(f"minimum is {minimum} and window {window}; it must be at least 2 and within the window")
        self.sigmas = sigmas
        self.window = window
        self.minimum = minimum
        self._losses: deque[float] = deque(maxlen=window)
        self._grad_norms: deque[float] = deque(maxlen=window)

    def verdict(self, loss: float, grad_norm: float | None) -> str | None:
        """None where the step may be made; otherwise the reason to skip it, for the log.

        Args:
            loss: of the global batch, the same number in every process, so that all decide alike.
            grad_norm: global, before clipping; None where there is none, as when gradients are never held together.
        """
        judged = [("loss", loss, self._losses)]
        if grad_norm is not None:
            judged.append(("gradient norm", grad_norm, self._grad_norms))
        for name, value, accepted in judged:
            if reason := self._reason(name, value, accepted):
                return reason
        for _, value, accepted in judged:
            accepted.append(value)
        return None

    def state_dict(self) -> dict[str, list[float]]:
        """The window, as JSON can hold it; Python writes floats so that they are read back bit for bit."""
        return {"losses": list(self._losses), "grad_norms": list(self._grad_norms)}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Restore what `state_dict` gave; a shorter window keeps the newest."""
        self._losses = deque(state["losses"], maxlen=self.window)
        self._grad_norms = deque(state["grad_norms"], maxlen=self.window)

    def _reason(self, name: str, value: float, accepted: deque[float]) -> str | None:
        if not math.isfinite(value):
            return f"{name} is {value}"
        if self.sigmas is None or len(accepted) < self.minimum:
            return None
        mean = statistics.fmean(accepted)
        deviation = max(statistics.pstdev(accepted, mean), DEVIATION_FLOOR * abs(mean))
        if value <= mean + self.sigmas * deviation or deviation == 0:  # all zero: nothing to measure by
            return None
        above = (value - mean) / deviation
        return f"{name} {value:.4g} is {above:.1f} standard deviations above the mean of the last {len(accepted)} steps"

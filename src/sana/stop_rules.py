"""When a best-of-N run stops, as --stop says it."""

from collections.abc import Callable

from sana_scale import Budget, ImprovementBelow, NoGain, StopRule, Threshold


def parse_stop(text: str) -> StopRule:
    """The rule that a text names: "p=0.95" or "0.95", "gain=16", "improvement=0.002", "images=40", "seconds=60".

    Raises:
        ValueError: it names none, or a number that a rule does not take.
    """
    kind, equals, number = text.rpartition("=")
    makers: dict[str, Callable[[float], StopRule]] = {
        "p": lambda value: Threshold(_probability(value)),
        "gain": lambda value: NoGain(_whole(value)),
        "improvement": lambda value: ImprovementBelow(value, ceiling=1.0),
        "images": lambda value: Budget(images=_whole(value)),
        "seconds": lambda value: Budget(seconds=value),
    }
    try:
        return makers[kind if equals else "p"](float(number))
    except (KeyError, ValueError) as error:
        reason = "" if isinstance(error, KeyError) else f" ({error})"
        raise ValueError(
            f"--stop is {text!r}{reason}; give p=0.95 (a score), gain=16 (images without a better one), "
            "improvement=0.002 (the least that one more image is expected to gain), images=40 or seconds=600"
        ) from None


def _whole(value: float) -> int:
    if not value.is_integer():
        raise ValueError(f"{value:g} is not a whole number")
    return int(value)


def _probability(value: float) -> float:
    if value > 1:
        raise ValueError(f"p is {value:g}; a probability is at most 1")
    return value

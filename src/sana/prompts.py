"""Which prompt goes with which seed."""

import operator
from collections.abc import Sequence


def pair(prompts: str | Sequence[str], seeds: Sequence[int] | None) -> tuple[list[str], list[int]]:
    """One prompt and one seed per picture."""
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise ValueError('no prompts were given; give one, or as many as seeds ("" draws without a prompt)')
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"a prompt is {text!r}; prompts are strings")
        if any("\ud800" <= character <= "\udfff" for character in text):  # from bytes that the locale cannot read
            raise ValueError(f"a prompt is {text!r}, which is not Unicode: use a UTF-8 locale, such as LC_ALL=C.UTF-8")
    numbers = [0] * len(texts) if seeds is None else [_whole(seed) for seed in seeds]
    if isinstance(prompts, str):
        texts = texts * len(numbers)
    if not numbers or len(texts) != len(numbers):
        raise ValueError(
            f"{len(texts)} prompts and {len(numbers)} seeds were given; "
            "give one prompt as a string with any seeds, or as many prompts as seeds"
        )
    return texts, numbers


def _whole(seed: object) -> int:
    """A seed as a Python int, be it NumPy's or torch's."""
    try:
        number = operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise ValueError(f"a seed is {seed!r}; seeds are whole numbers in [0, 2**63)")
    return number

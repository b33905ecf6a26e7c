from collections.abc import Sequence

from sana_scale import Judge, Sampler


def write(prompt: str, seeds: Sequence[int]) -> list[str]:
    return [f"{prompt} {seed}" for seed in seeds]


def length(prompt: str, images: Sequence[str]) -> list[float]:
    return [float(len(image)) for image in images]


def test_plain_functions_are_a_sampler_and_a_judge():
    sampler: Sampler[str] = write
    judge: Judge[str] = length
    assert isinstance(sampler, Sampler)
    assert isinstance(judge, Judge)
    assert judge("a", sampler("a", [1, 22])) == [3.0, 4.0]


def test_what_cannot_be_called_is_neither():
    assert not isinstance("a picture", Sampler)
    assert not isinstance(3.0, Judge)
